package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-proxy/sluice/pool"
)

var _ pool.Store = (*DB)(nil)

// Cooldown is a member's; zero if it has none.
func (db *DB) Cooldown(ctx context.Context, member int64) (pool.Cooldown, error) {
	var c pool.Cooldown
	var began, until, probeAt int64
	err := db.read.QueryRowContext(ctx, `SELECT began, until, reason, unhinted, probe_at FROM cooldowns WHERE member_id = ?`, member).
		Scan(&began, &until, &c.Reason, &c.Unhinted, &probeAt)
	if errors.Is(err, sql.ErrNoRows) {
		return pool.Cooldown{}, nil
	}
	if err != nil {
		return pool.Cooldown{}, fmt.Errorf("read cooldown: %w", err)
	}
	c.Began, c.Until, c.ProbeAt = instant(began), instant(until), instant(probeAt)
	return c, nil
}

// Apply makes a change durable as a whole. The edge is crossed, and its event
// written, only if the stored state is on the other side: an edge has one author.
func (db *DB) Apply(ctx context.Context, c pool.Change) error {
	return db.tx(ctx, func(tx *sql.Tx) error { return apply(ctx, tx, c) })
}

func apply(ctx context.Context, tx *sql.Tx, c pool.Change) error {
	if err := writeCooldowns(ctx, tx, c); err != nil {
		return err
	}
	for member, parked := range c.Parked {
		if _, err := tx.ExecContext(ctx, `UPDATE members SET parked = ? WHERE id = ?`, parked, member); err != nil {
			return fmt.Errorf("park: %w", err)
		}
	}
	if c.Active != 0 {
		if _, err := tx.ExecContext(ctx, `UPDATE pools SET active = ? WHERE id = ?`, c.Active, c.Pool); err != nil {
			return fmt.Errorf("move on: %w", err)
		}
	}
	for _, e := range c.Events {
		if err := addEvent(ctx, tx, c, e); err != nil {
			return err
		}
	}
	return crossEdge(ctx, tx, c)
}

func writeCooldowns(ctx context.Context, tx *sql.Tx, c pool.Change) error {
	for member, cd := range c.Cooldowns {
		var err error
		if cd == (pool.Cooldown{}) {
			_, err = tx.ExecContext(ctx, `DELETE FROM cooldowns WHERE member_id = ?`, member)
		} else {
			// A change that has waited may be of a member that has left: nothing is to be kept of that one.
			_, err = tx.ExecContext(ctx, `INSERT INTO cooldowns (member_id, began, until, reason, unhinted, probe_at)
				SELECT id, ?2, ?3, ?4, ?5, ?6 FROM members WHERE id = ?1
				ON CONFLICT (member_id) DO UPDATE SET began = excluded.began, until = excluded.until, reason = excluded.reason,
				unhinted = excluded.unhinted, probe_at = excluded.probe_at`,
				member, nanos(cd.Began), nanos(cd.Until), cd.Reason, cd.Unhinted, nanos(cd.ProbeAt))
		}
		if err != nil {
			return fmt.Errorf("write cooldown: %w", err)
		}
	}
	return nil
}

func crossEdge(ctx context.Context, tx *sql.Tx, c pool.Change) error {
	if c.To == "" {
		return nil
	}
	res, err := tx.ExecContext(ctx, `UPDATE pools SET state = ?1, since = ?2 WHERE id = ?3 AND state <> ?1`, c.To, nanos(c.At), c.Pool)
	if err != nil {
		return fmt.Errorf("cross an edge: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	return addEvent(ctx, tx, c, c.EdgeEvent)
}

func addEvent(ctx context.Context, tx *sql.Tx, c pool.Change, e pool.Event) error {
	if _, err := tx.ExecContext(ctx, `INSERT INTO events (time, kind, pool, member, target, reason, detail, to_member, until, since, members, actor)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		nanos(c.At), e.Kind, e.Pool, e.Member, e.Target, e.Reason, e.Detail, e.To, nanos(e.Until), nanos(e.Since), e.Members, e.Actor); err != nil {
		return fmt.Errorf("add event: %w", err)
	}
	return nil
}

// change is tx for what changes the configuration: the event that the keeper
// wants noted is part of it.
func (db *DB) change(ctx context.Context, f func(*sql.Tx) error) error {
	return db.changeThen(ctx, pool.Change{}, nil, f)
}

// changeThen is change with what follows from it, and with what it is to be ready with: nothing of it is made if that fails.
func (db *DB) changeThen(ctx context.Context, then pool.Change, ready func() error, f func(*sql.Tx) error) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		if err := note(ctx, tx); err != nil {
			return err
		}
		if err := apply(ctx, tx, then); err != nil || ready == nil {
			return err
		}
		return ready()
	})
}

// note adds the event that the keeper wants noted, if there is one.
func note(ctx context.Context, tx *sql.Tx) error {
	e, ok := pool.NoteOf(ctx)
	if !ok {
		return nil
	}
	return addEvent(ctx, tx, pool.Change{At: e.Time}, e)
}

const eventColumns = `seq, time, kind, pool, member, target, reason, detail, to_member, until, since, members, actor`

// EventsAfter lists at most limit events with a seq above after, oldest first.
func (db *DB) EventsAfter(ctx context.Context, after int64, limit int) ([]pool.Event, error) {
	return db.events(ctx, `SELECT `+eventColumns+` FROM events WHERE seq > ? ORDER BY seq LIMIT ?`, after, limit)
}

// LastEvents lists the last limit events, oldest first.
func (db *DB) LastEvents(ctx context.Context, limit int) ([]pool.Event, error) {
	all, err := db.events(ctx, `SELECT `+eventColumns+` FROM events ORDER BY seq DESC LIMIT ?`, limit)
	slices.Reverse(all)
	return all, err
}

func (db *DB) events(ctx context.Context, query string, args ...any) ([]pool.Event, error) {
	rows, err := db.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []pool.Event
	for rows.Next() {
		var e pool.Event
		var at, until, since int64
		if err := rows.Scan(&e.Seq, &at, &e.Kind, &e.Pool, &e.Member, &e.Target, &e.Reason, &e.Detail, &e.To, &until, &since, &e.Members, &e.Actor); err != nil {
			return nil, fmt.Errorf("read an event: %w", err)
		}
		e.Time, e.Until, e.Since = instant(at), instant(until), instant(since)
		all = append(all, e)
	}
	return all, rows.Err()
}
