package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// CreatePool stores a pool with its members and bindings, or nothing.
func (db *DB) CreatePool(ctx context.Context, p pool.Pool, at time.Time, ready func() error) error {
	return db.changeThen(ctx, pool.Change{}, ready, func(tx *sql.Tx) error {
		if err := nameIsFree(ctx, tx, p.Name); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO pools (name, strategy, provider, agent_profile, container, auth_reset_target, hold, created_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, p.Name, p.Strategy, p.Provider, p.AgentProfile, p.Container, p.AuthResetTarget, int64(p.Hold), nanos(at))
		if err != nil {
			return fmt.Errorf("add pool: %w", err)
		}
		id, err := res.LastInsertId()
		if err != nil {
			return fmt.Errorf("add pool: %w", err)
		}
		for i, m := range p.Members {
			if err := addMember(ctx, tx, id, m, i); err != nil {
				return err
			}
		}
		for i, b := range p.Bindings {
			if _, err := tx.ExecContext(ctx, `INSERT INTO bindings (pool_id, position, host, port, header) VALUES (?, ?, ?, ?, ?)`,
				id, i, b.Host, b.Port, b.Header); err != nil {
				return fmt.Errorf("add binding: %w", err)
			}
		}
		return nil
	})
}

func addMember(ctx context.Context, tx *sql.Tx, id int64, credential string, position int) error {
	var (
		credentialID int64
		holder       string
	)
	err := tx.QueryRowContext(ctx, `SELECT c.id, COALESCE(p.name, '') FROM credentials c
		LEFT JOIN members m ON m.credential_id = c.id LEFT JOIN pools p ON p.id = m.pool_id WHERE c.name = ?`, credential).
		Scan(&credentialID, &holder)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		missing := pool.NoCredential(credential)
		missing.Message = fmt.Sprintf("members: %s: add it first with 'sluice cred add %s'", missing.Message, credential)
		return missing
	case err != nil:
		return fmt.Errorf("look for credential: %w", err)
	case holder != "":
		return pool.Conflict("members: credential %q is a member of pool %q already; one credential serves one pool", credential, holder)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO members (pool_id, credential_id, position) VALUES (?, ?, ?)`, id, credentialID, position); err != nil {
		return fmt.Errorf("add member: %w", err)
	}
	return nil
}

func poolID(ctx context.Context, tx *sql.Tx, name string) (id int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM pools WHERE name = ?`, name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, pool.NoPool(name)
	}
	if err != nil {
		return 0, fmt.Errorf("look for pool: %w", err)
	}
	return id, nil
}

// RemovePool deletes a pool, its members' places, cooldowns and bindings.
func (db *DB) RemovePool(ctx context.Context, name string) error {
	return db.change(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM pools WHERE name = ?`, name)
		return oneRow(res, err, pool.NoPool(name))
	})
}

// AddMember adds a credential as the last member of a pool.
func (db *DB) AddMember(ctx context.Context, name, credential string, ready func() error) error {
	return db.changeThen(ctx, pool.Change{}, ready, func(tx *sql.Tx) error {
		id, err := poolID(ctx, tx, name)
		if err != nil {
			return err
		}
		var count, last int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(MAX(position), -1) FROM members WHERE pool_id = ?`, id).Scan(&count, &last); err != nil {
			return fmt.Errorf("count members: %w", err)
		}
		if count >= pool.MaxMembers {
			return pool.Conflict("pool %q has %d members, the most allowed", name, count)
		}
		return addMember(ctx, tx, id, credential, last+1)
	})
}

// RemoveMember takes a credential out of a pool. The pointer to the active member
// goes on to the one after it.
func (db *DB) RemoveMember(ctx context.Context, name, credential string, then pool.Change) error {
	return db.changeThen(ctx, then, nil, func(tx *sql.Tx) error {
		id, err := poolID(ctx, tx, name)
		if err != nil {
			return err
		}
		var member, position int64
		var others int
		err = tx.QueryRowContext(ctx, `SELECT m.id, m.position, (SELECT COUNT(*) - 1 FROM members WHERE pool_id = ?1)
			FROM members m JOIN credentials c ON c.id = m.credential_id WHERE m.pool_id = ?1 AND c.name = ?2`, id, credential).
			Scan(&member, &position, &others)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return pool.NoMember(name, credential)
		case err != nil:
			return fmt.Errorf("look for member: %w", err)
		case others == 0:
			return pool.Conflict("%q is the last member of pool %q: remove the pool instead", credential, name)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE pools SET active = (
				SELECT id FROM members WHERE pool_id = ?1 AND id <> ?2 ORDER BY position < ?3, position LIMIT 1)
			WHERE id = ?1 AND active = ?2`, id, member, position); err != nil {
			return fmt.Errorf("move on: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM members WHERE id = ?`, member); err != nil {
			return fmt.Errorf("remove member: %w", err)
		}
		return nil
	})
}

// SetAuthResetTarget changes what the agent's auth reset is run for.
func (db *DB) SetAuthResetTarget(ctx context.Context, name, target string) error {
	return db.change(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE pools SET auth_reset_target = ? WHERE name = ?`, target, name)
		return oneRow(res, err, pool.NoPool(name))
	})
}

// Config reads all pools and credentials at one instant. It waits for nobody who writes: what was stored a moment
// before is to be seen, and not to be told of as failed.
func (db *DB) Config(ctx context.Context) (cfg pool.Config, err error) {
	err = db.look(ctx, func(tx *sql.Tx) error {
		if cfg.Credentials, err = credentials(ctx, tx, ""); err != nil {
			return err
		}
		cfg.Pools, err = pools(ctx, tx, "", "")
		return err
	})
	return cfg, err
}

// ConfigOf is Config of one pool, if there is one of the name, and of its members' credentials and those that are named.
func (db *DB) ConfigOf(ctx context.Context, name string, names []string) (cfg pool.Config, err error) {
	err = db.look(ctx, func(tx *sql.Tx) error {
		if cfg.Pools, err = pools(ctx, tx, `WHERE name = ?`, `WHERE pool_id = (SELECT id FROM pools WHERE name = ?)`, name); err != nil {
			return err
		}
		names = slices.Clone(names)
		for _, p := range cfg.Pools {
			names = append(names, p.Pool.Members...)
		}
		slices.Sort(names)
		for _, c := range slices.Compact(names) {
			found, err := credentials(ctx, tx, `WHERE c.name = ?`, c)
			if err != nil {
				return err
			}
			cfg.Credentials = append(cfg.Credentials, found...)
		}
		return nil
	})
	return cfg, err
}

// look has f read at one instant.
func (db *DB) look(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	return errors.Join(f(tx), ignoreDone(tx.Rollback()))
}

// pools reads those of which which is true, and of their rows elsewhere those of which whose is.
func pools(ctx context.Context, tx *sql.Tx, which, whose string, args ...any) ([]pool.PoolRecord, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, name, strategy, provider, agent_profile, container, auth_reset_target, hold, active, state, since, told
		FROM pools `+which+` ORDER BY id`, args...)
	if err != nil {
		return nil, fmt.Errorf("read pools: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []pool.PoolRecord
	at := make(map[int64]int)
	for rows.Next() {
		var r pool.PoolRecord
		var since, told int64
		p := &r.Pool
		if err := rows.Scan(&r.ID, &p.Name, &p.Strategy, &p.Provider, &p.AgentProfile, &p.Container, &p.AuthResetTarget,
			&p.Hold, &r.Active, &r.State, &since, &told); err != nil {
			return nil, fmt.Errorf("read a pool: %w", err)
		}
		r.Since, r.Told = instant(since), told != 0
		at[r.ID] = len(all)
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read pools: %w", err)
	}
	if err := members(ctx, tx, all, at, whose, args...); err != nil {
		return nil, err
	}
	return all, bindings(ctx, tx, all, at, whose, args...)
}

func members(ctx context.Context, tx *sql.Tx, all []pool.PoolRecord, at map[int64]int, whose string, args ...any) error {
	rows, err := tx.QueryContext(ctx, `SELECT m.pool_id, m.id, c.name, m.parked FROM members m
		JOIN credentials c ON c.id = m.credential_id `+whose+` ORDER BY m.pool_id, m.position`, args...)
	if err != nil {
		return fmt.Errorf("read members: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		var m pool.MemberRecord
		if err := rows.Scan(&id, &m.ID, &m.Credential, &m.Parked); err != nil {
			return fmt.Errorf("read a member: %w", err)
		}
		r := &all[at[id]]
		r.Members = append(r.Members, m)
		r.Pool.Members = append(r.Pool.Members, m.Credential)
	}
	return rows.Err()
}

func bindings(ctx context.Context, tx *sql.Tx, all []pool.PoolRecord, at map[int64]int, whose string, args ...any) error {
	rows, err := tx.QueryContext(ctx, `SELECT pool_id, host, port, header FROM bindings `+whose+` ORDER BY pool_id, position`, args...)
	if err != nil {
		return fmt.Errorf("read bindings: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		var b pool.Binding
		if err := rows.Scan(&id, &b.Host, &b.Port, &b.Header); err != nil {
			return fmt.Errorf("read a binding: %w", err)
		}
		r := &all[at[id]]
		r.Pool.Bindings = append(r.Pool.Bindings, b)
	}
	return rows.Err()
}

// InstallationKey returns 32 random bytes, the same for the life of the database.
func (db *DB) InstallationKey(ctx context.Context) ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if _, err := db.exec(ctx, `INSERT OR IGNORE INTO settings (name, value) VALUES ('installation_key', ?)`, key); err != nil {
		return nil, fmt.Errorf("keep a key: %w", err)
	}
	if err := db.sql.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'installation_key'`).Scan(&key); err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	return key, nil
}
