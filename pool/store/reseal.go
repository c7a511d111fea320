package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// Reseal replaces every sealed secret by what seal makes of it: all of them or, with
// an error, none.
func (db *DB) Reseal(ctx context.Context, seal func([]byte) ([]byte, error)) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		all, err := sealed(ctx, tx)
		if err != nil {
			return err
		}
		for _, s := range all {
			data, err := seal(s.Data)
			if err != nil {
				return fmt.Errorf("credential %s: %w", s.Name, err)
			}
			if _, err := tx.ExecContext(ctx, `UPDATE credentials SET sealed = ? WHERE name = ?`, data, s.Name); err != nil {
				return fmt.Errorf("write credential %s: %w", s.Name, err)
			}
		}
		return nil
	})
}

// identityGiven is where it is kept whether the vault's identity is systemd's.
const identityGiven = "identity_given"

// IdentityGiven says whether the last daemon had the vault's identity from systemd:
// who looks without being started by systemd cannot see it.
func (db *DB) IdentityGiven(ctx context.Context) (bool, error) {
	var given bool
	err := db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM settings WHERE name = ?)`, identityGiven).Scan(&given)
	if err != nil {
		return false, fmt.Errorf("read whose the identity is: %w", err)
	}
	return given, nil
}

// SetIdentityGiven keeps what IdentityGiven says.
func (db *DB) SetIdentityGiven(ctx context.Context, given bool) error {
	if was, err := db.IdentityGiven(ctx); err != nil || was == given {
		return err
	}
	query := `DELETE FROM settings WHERE name = ?`
	if given {
		query = `INSERT INTO settings (name, value) VALUES (?, x'31')`
	}
	if _, err := db.exec(ctx, query, identityGiven); err != nil {
		return fmt.Errorf("keep whose the identity is: %w", err)
	}
	return nil
}

// Scrub writes the database anew, without what was deleted or replaced in it: until
// then, that can still be read in its free pages and its log.
func (db *DB) Scrub(ctx context.Context) error {
	if _, err := db.exec(ctx, `VACUUM`); err != nil {
		return fmt.Errorf("write the database anew: %w", err)
	}
	var busy, pages, moved int
	if err := db.sql.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &pages, &moved); err != nil {
		return fmt.Errorf("empty the database's log: %w", db.sayWhy(err))
	}
	if busy != 0 {
		return fmt.Errorf("empty the database's log: somebody else has %s open: end that first", db.path)
	}
	return nil
}

// Sealed is every secret as it is stored.
func (db *DB) Sealed(ctx context.Context) ([]vault.Sealed, error) { return sealed(ctx, db.read) }

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func sealed(ctx context.Context, q querier) ([]vault.Sealed, error) {
	rows, err := q.QueryContext(ctx, `SELECT name, sealed FROM credentials ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("read what is sealed: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []vault.Sealed
	for rows.Next() {
		var s vault.Sealed
		if err := rows.Scan(&s.Name, &s.Data); err != nil {
			return nil, fmt.Errorf("read what is sealed: %w", err)
		}
		all = append(all, s)
	}
	return all, rows.Err()
}
