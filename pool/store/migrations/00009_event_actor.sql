-- +goose Up
ALTER TABLE events ADD COLUMN actor TEXT NOT NULL DEFAULT ''; -- who asked for it; empty: nobody did

-- +goose Down
ALTER TABLE events DROP COLUMN actor;
