-- +goose Up
ALTER TABLE credentials ADD COLUMN refresh_failed INTEGER NOT NULL DEFAULT 0; -- since when the refresh token is not accepted

-- +goose Down
ALTER TABLE credentials DROP COLUMN refresh_failed;
