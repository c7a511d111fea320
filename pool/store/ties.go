package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// Ties lists what members made, oldest first.
func (db *DB) Ties(ctx context.Context) ([]pool.TieRecord, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT t.mark, t.member_id, m.pool_id, t.made FROM ties t
		JOIN members m ON m.id = t.member_id ORDER BY t.seq`)
	if err != nil {
		return nil, fmt.Errorf("read ties: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []pool.TieRecord
	for rows.Next() {
		var r pool.TieRecord
		var mark []byte
		var made int64
		if err := rows.Scan(&mark, &r.Member, &r.Pool, &made); err != nil {
			return nil, fmt.Errorf("read a tie: %w", err)
		}
		copy(r.Mark[:], mark)
		r.Made = instant(made)
		all = append(all, r)
	}
	return all, rows.Err()
}

// AddTies adds what members made, and forgets what was dropped and what was made up to before. Of a member that has
// left, nothing is added.
func (db *DB) AddTies(ctx context.Context, ties, dropped []pool.TieRecord, before time.Time) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		for _, t := range ties {
			if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO ties (seq, mark, member_id, made)
				SELECT (SELECT COALESCE(MAX(seq), 0) + 1 FROM ties), ?1, id, ?3 FROM members WHERE id = ?2`,
				t.Mark[:], t.Member, nanos(t.Made)); err != nil {
				return fmt.Errorf("add a tie: %w", err)
			}
		}
		for _, t := range dropped {
			if _, err := tx.ExecContext(ctx, `DELETE FROM ties WHERE mark = ? AND member_id = ?`, t.Mark[:], t.Member); err != nil {
				return fmt.Errorf("forget a tie: %w", err)
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM ties WHERE made <= ?`, nanos(before)); err != nil {
			return fmt.Errorf("forget old ties: %w", err)
		}
		return nil
	})
}
