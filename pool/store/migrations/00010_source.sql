-- +goose Up
ALTER TABLE credentials ADD COLUMN source TEXT NOT NULL DEFAULT '';       -- where the secret is read from; empty: it was given
ALTER TABLE credentials ADD COLUMN source_error TEXT NOT NULL DEFAULT ''; -- why it cannot be read; empty: it can

-- +goose Down
ALTER TABLE credentials DROP COLUMN source_error;
ALTER TABLE credentials DROP COLUMN source;
