package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Target is a remembered attachment.
type Target struct {
	ID        string
	Kind      string
	Ref       string // a cgroup's path, for example
	Pools     []string
	CreatedAt time.Time
}

// SaveTarget remembers a target, or changes what is remembered of it.
func (db *DB) SaveTarget(ctx context.Context, t Target) error {
	pools, err := json.Marshal(t.Pools)
	if err != nil {
		return fmt.Errorf("encode pools: %w", err)
	}
	if _, err := db.exec(ctx, `INSERT INTO targets (id, kind, ref, pools, created_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, ref = excluded.ref, pools = excluded.pools`,
		t.ID, t.Kind, t.Ref, string(pools), nanos(t.CreatedAt)); err != nil {
		return fmt.Errorf("remember target: %w", err)
	}
	return nil
}

// DeleteTarget forgets a target; one that is not there is no error.
func (db *DB) DeleteTarget(ctx context.Context, id string) error {
	if _, err := db.exec(ctx, `DELETE FROM targets WHERE id = ?`, id); err != nil {
		return fmt.Errorf("forget target: %w", err)
	}
	return nil
}

// Targets lists the remembered targets, oldest first.
func (db *DB) Targets(ctx context.Context) ([]Target, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT id, kind, ref, pools, created_at FROM targets ORDER BY created_at, id`)
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []Target
	for rows.Next() {
		var t Target
		var pools string
		var created int64
		if err := rows.Scan(&t.ID, &t.Kind, &t.Ref, &pools, &created); err != nil {
			return nil, fmt.Errorf("read a target: %w", err)
		}
		if err := json.Unmarshal([]byte(pools), &t.Pools); err != nil {
			return nil, fmt.Errorf("read target %s: %w", t.ID, err)
		}
		t.CreatedAt = instant(created)
		all = append(all, t)
	}
	return all, rows.Err()
}
