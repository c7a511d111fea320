-- +goose Up
-- Since when an agent holds the pool for exhausted, because it was told so: 0 if none was told since the last reset.
ALTER TABLE pools ADD COLUMN told INTEGER NOT NULL DEFAULT 0;

-- The auth resets that are due or under way: at most one a pool.
CREATE TABLE auth_resets (
    pool_id INTEGER PRIMARY KEY REFERENCES pools (id) ON DELETE CASCADE,
    seq     INTEGER NOT NULL,           -- of the event that asked for it, 0: a person did
    starts  INTEGER NOT NULL DEFAULT 0  -- how many daemons have begun it
) STRICT;

-- +goose Down
DROP TABLE auth_resets;
ALTER TABLE pools DROP COLUMN told;
