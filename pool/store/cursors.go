package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
)

// Cursor is the seq of the last event that a reader has dealt with. A reader that
// was not known begins after the newest event: what happened before it was set up
// is not its business.
func (db *DB) Cursor(ctx context.Context, reader string) (int64, error) {
	var seq int64
	err := db.tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT seq FROM cursors WHERE name = ?`, reader).Scan(&seq)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq), 0) FROM events`).Scan(&seq); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO cursors (name, seq) VALUES (?, ?)`, reader, seq)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the cursor of %s: %w", reader, err)
	}
	return seq, nil
}

// SetCursor moves a reader on. It never goes back.
func (db *DB) SetCursor(ctx context.Context, reader string, seq int64) error {
	if _, err := db.exec(ctx, `INSERT INTO cursors (name, seq) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET seq = MAX(seq, excluded.seq)`, reader, seq); err != nil {
		return fmt.Errorf("move the cursor of %s: %w", reader, err)
	}
	return nil
}

// Rewind moves a reader back to seq if it is past that: what followed is given to it
// once more, as far as it is kept.
func (db *DB) Rewind(ctx context.Context, reader string, seq int64) error {
	if _, err := db.exec(ctx, `UPDATE cursors SET seq = ? WHERE name = ? AND seq > ?`, seq, reader, seq); err != nil {
		return fmt.Errorf("move the cursor of %s back: %w", reader, err)
	}
	return nil
}

// KeepReaders forgets every reader but those named, so that one that is no longer
// set up holds no events back.
func (db *DB) KeepReaders(ctx context.Context, readers []string) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT name FROM cursors`)
		if err != nil {
			return fmt.Errorf("read cursors: %w", err)
		}
		gone, err := namesExcept(rows, readers)
		if err != nil {
			return fmt.Errorf("read cursors: %w", err)
		}
		for _, name := range gone {
			if _, err := tx.ExecContext(ctx, `DELETE FROM cursors WHERE name = ?`, name); err != nil {
				return fmt.Errorf("forget the cursor of %s: %w", name, err)
			}
		}
		return nil
	})
}

func namesExcept(rows *sql.Rows, kept []string) ([]string, error) {
	defer func() { _ = rows.Close() }()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		if !slices.Contains(kept, name) {
			names = append(names, name)
		}
	}
	return names, rows.Err()
}

// CountAfter is how many events have a seq above after.
func (db *DB) CountAfter(ctx context.Context, after int64) (int64, error) {
	var n int64
	if err := db.read.QueryRowContext(ctx, `SELECT COUNT(*) FROM events WHERE seq > ?`, after).Scan(&n); err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	return n, nil
}

// PruneEvents deletes the oldest events that every reader is past, down to the
// newest keep.
func (db *DB) PruneEvents(ctx context.Context, keep int64) (int64, error) {
	res, err := db.exec(ctx, `DELETE FROM events WHERE seq <= (SELECT MAX(seq) FROM events) - ?
		AND seq <= COALESCE((SELECT MIN(seq) FROM cursors), (SELECT MAX(seq) FROM events))`, keep)
	if err != nil {
		return 0, fmt.Errorf("prune events: %w", err)
	}
	return res.RowsAffected()
}
