-- +goose Up
ALTER TABLE pools ADD COLUMN hold INTEGER NOT NULL DEFAULT 0; -- nanoseconds

-- +goose Down
ALTER TABLE pools DROP COLUMN hold;
