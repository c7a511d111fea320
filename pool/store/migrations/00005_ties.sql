-- +goose Up
-- What the accounts of members made, so that requests which name it go to them.
CREATE TABLE ties (
    seq       INTEGER PRIMARY KEY,     -- the newest is the highest
    mark      BLOB NOT NULL,           -- 16 bytes of the SHA-256 of its name
    member_id INTEGER NOT NULL REFERENCES members (id) ON DELETE CASCADE,
    made      INTEGER NOT NULL,
    UNIQUE (mark, member_id)
) STRICT;
CREATE INDEX ties_by_member ON ties (member_id);
CREATE INDEX ties_by_age ON ties (made);

-- +goose Down
DROP TABLE ties;
