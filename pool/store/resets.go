package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// MarkTold notes that an agent was told that a pool is exhausted.
func (db *DB) MarkTold(ctx context.Context, id int64, at time.Time) error {
	if _, err := db.exec(ctx, `UPDATE pools SET told = ? WHERE id = ?`, nanos(at), id); err != nil {
		return fmt.Errorf("note that an agent was told: %w", err)
	}
	return nil
}

// RequestReset notes that a reset is due and that no agent has been told anything
// since. It says no if one is due already.
func (db *DB) RequestReset(ctx context.Context, id, seq int64) (requested bool, err error) {
	err = db.tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO auth_resets (pool_id, seq) SELECT id, ?2 FROM pools WHERE id = ?1
			ON CONFLICT (pool_id) DO NOTHING`, id, seq)
		if err != nil {
			return fmt.Errorf("request a reset: %w", err)
		}
		n, err := res.RowsAffected()
		if requested = n > 0; err != nil || !requested {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE pools SET told = 0 WHERE id = ?`, id); err != nil {
			return fmt.Errorf("request a reset: %w", err)
		}
		return note(ctx, tx)
	})
	return requested && err == nil, err
}

// DueResets lists the resets that have been requested and have not ended, oldest pool first.
func (db *DB) DueResets(ctx context.Context) ([]pool.DueReset, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT r.pool_id, p.name, r.seq, r.starts FROM auth_resets r
		JOIN pools p ON p.id = r.pool_id ORDER BY r.pool_id`)
	if err != nil {
		return nil, fmt.Errorf("read the resets: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []pool.DueReset
	for rows.Next() {
		var r pool.DueReset
		if err := rows.Scan(&r.ID, &r.Pool, &r.Seq, &r.Starts); err != nil {
			return nil, fmt.Errorf("read a reset: %w", err)
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// BeginReset counts one more start.
func (db *DB) BeginReset(ctx context.Context, id int64) error {
	res, err := db.exec(ctx, `UPDATE auth_resets SET starts = starts + 1 WHERE pool_id = ?`, id)
	return oneRow(res, err, pool.NotFound("the reset is not due any more: its pool was removed"))
}

// EndReset forgets a reset and adds what became of it to the log. If the agent may
// still hold the pool for exhausted, told says since when.
func (db *DB) EndReset(ctx context.Context, id int64, told time.Time, events []pool.Event, at time.Time) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM auth_resets WHERE pool_id = ?`, id); err != nil {
			return fmt.Errorf("end a reset: %w", err)
		}
		if !told.IsZero() {
			if _, err := tx.ExecContext(ctx, `UPDATE pools SET told = ? WHERE id = ?`, nanos(told), id); err != nil {
				return fmt.Errorf("end a reset: %w", err)
			}
		}
		for _, e := range events {
			if err := addEvent(ctx, tx, pool.Change{At: at}, e); err != nil {
				return err
			}
		}
		return nil
	})
}
