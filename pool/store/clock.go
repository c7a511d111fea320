package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const clockAnchor = "clock_anchor"

// ClockAnchor is what the last ShiftTimes was given; nil before the first.
func (db *DB) ClockAnchor(ctx context.Context) ([]byte, error) {
	var anchor []byte
	err := db.read.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, clockAnchor).Scan(&anchor)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the clock's anchor: %w", err)
	}
	return anchor, nil
}

// ShiftTimes moves the cooldowns, and the instants since which pools are in their
// states. What has happened is not moved: events keep the time that was shown then.
func (db *DB) ShiftTimes(ctx context.Context, by time.Duration, anchor []byte) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, clockAnchor, anchor); err != nil {
			return fmt.Errorf("write the clock's anchor: %w", err)
		}
		if by == 0 {
			return nil
		}
		for _, column := range []struct{ table, name string }{
			{"cooldowns", "began"}, {"cooldowns", "until"}, {"cooldowns", "probe_at"}, {"pools", "since"},
		} {
			// Zero is no instant at all.
			query := fmt.Sprintf(`UPDATE %[1]s SET %[2]s = %[2]s + ? WHERE %[2]s <> 0`, column.table, column.name)
			if _, err := tx.ExecContext(ctx, query, int64(by)); err != nil {
				return fmt.Errorf("shift %s.%s: %w", column.table, column.name, err)
			}
		}
		return nil
	})
}
