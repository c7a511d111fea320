-- +goose Up
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE credentials (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE,
    type          TEXT NOT NULL CHECK (type IN ('static', 'oauth')),
    sealed        BLOB NOT NULL, -- age-encrypted
    token_url     TEXT NOT NULL DEFAULT '',
    client_id     TEXT NOT NULL DEFAULT '',
    extra_headers TEXT NOT NULL DEFAULT '[]', -- JSON list of names
    expires_at    INTEGER NOT NULL DEFAULT 0  -- Unix nanoseconds, 0: never
) STRICT;

CREATE TABLE pools (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE,
    strategy      TEXT NOT NULL,
    provider      TEXT NOT NULL DEFAULT '',
    agent_profile TEXT NOT NULL DEFAULT '',
    container     TEXT NOT NULL DEFAULT '',
    created_at    INTEGER NOT NULL,
    active        INTEGER NOT NULL DEFAULT 0,        -- members.id, 0: the first
    state         TEXT NOT NULL DEFAULT 'healthy',   -- the last edge that was announced
    since         INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A credential that leaves a pool and comes back is another member: ids are never used again.
CREATE TABLE members (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    pool_id       INTEGER NOT NULL REFERENCES pools (id) ON DELETE CASCADE,
    credential_id INTEGER NOT NULL UNIQUE REFERENCES credentials (id),
    position      INTEGER NOT NULL,
    parked        INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX members_by_pool ON members (pool_id, position);

CREATE TABLE bindings (
    pool_id  INTEGER NOT NULL REFERENCES pools (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    host     TEXT NOT NULL,
    port     INTEGER NOT NULL,
    header   TEXT NOT NULL,
    PRIMARY KEY (pool_id, position)
) STRICT;

CREATE TABLE cooldowns (
    member_id INTEGER PRIMARY KEY REFERENCES members (id) ON DELETE CASCADE,
    began     INTEGER NOT NULL, -- Unix nanoseconds, as all times here
    until     INTEGER NOT NULL,
    reason    TEXT NOT NULL,
    unhinted  INTEGER NOT NULL,
    probe_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    time   INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    pool   TEXT NOT NULL DEFAULT '',
    member TEXT NOT NULL DEFAULT '',
    target TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    detail TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE targets (
    id         TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    ref        TEXT NOT NULL,
    pools      TEXT NOT NULL DEFAULT '[]', -- JSON list of names
    created_at INTEGER NOT NULL
) STRICT;

-- +goose Down
DROP TABLE targets;
DROP TABLE events;
DROP TABLE cooldowns;
DROP TABLE bindings;
DROP TABLE members;
DROP TABLE pools;
DROP TABLE credentials;
DROP TABLE settings;
