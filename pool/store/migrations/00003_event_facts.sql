-- +goose Up
-- What a notice says is made of facts, not cut out of prose.
ALTER TABLE events ADD COLUMN to_member TEXT NOT NULL DEFAULT '';    -- who is active now
ALTER TABLE events ADD COLUMN until     INTEGER NOT NULL DEFAULT 0;  -- when the member is back
ALTER TABLE events ADD COLUMN since     INTEGER NOT NULL DEFAULT 0;  -- when what ends here began
ALTER TABLE events ADD COLUMN members   INTEGER NOT NULL DEFAULT 0;  -- of the pool

-- How far each reader of the event log has come.
CREATE TABLE cursors (
    name TEXT PRIMARY KEY,
    seq  INTEGER NOT NULL
) STRICT;

-- +goose Down
DROP TABLE cursors;
ALTER TABLE events DROP COLUMN members;
ALTER TABLE events DROP COLUMN since;
ALTER TABLE events DROP COLUMN until;
ALTER TABLE events DROP COLUMN to_member;
