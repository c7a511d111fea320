-- +goose Up
ALTER TABLE pools ADD COLUMN auth_reset_target TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE pools DROP COLUMN auth_reset_target;
