package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-proxy/sluice/pool"
)

// AddCredential stores a credential.
func (db *DB) AddCredential(ctx context.Context, r pool.CredentialRecord) error {
	return db.change(ctx, func(tx *sql.Tx) error {
		if err := nameIsFree(ctx, tx, r.Credential.Name); err != nil {
			return err
		}
		c := r.Credential
		extra, err := json.Marshal(c.ExtraHeaders)
		if err != nil {
			return fmt.Errorf("encode header names: %w", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO credentials (name, type, sealed, token_url, client_id, extra_headers, expires_at, source)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, c.Name, c.Type, r.Sealed, c.TokenURL, c.ClientID, string(extra), nanos(c.ExpiresAt), c.Source)
		if err != nil {
			return fmt.Errorf("add credential: %w", err)
		}
		return nil
	})
}

// nameIsFree keeps one name from standing for a pool and a credential, or for two of one kind.
func nameIsFree(ctx context.Context, tx *sql.Tx, name string) error {
	var kind string
	err := tx.QueryRowContext(ctx, `SELECT 'credential' FROM credentials WHERE name = ?1
		UNION ALL SELECT 'pool' FROM pools WHERE name = ?1`, name).Scan(&kind)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look for the name: %w", err)
	}
	return pool.Conflict("name: there is a %s named %q already", kind, name)
}

// UpdateCredential replaces a credential's row.
func (db *DB) UpdateCredential(ctx context.Context, r pool.CredentialRecord, then pool.Change, ready func() error) error {
	c := r.Credential
	extra, err := json.Marshal(c.ExtraHeaders)
	if err != nil {
		return fmt.Errorf("encode header names: %w", err)
	}
	return db.changeThen(ctx, then, ready, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE credentials SET sealed = ?, token_url = ?, client_id = ?, extra_headers = ?, expires_at = ?, refresh_failed = ?,
			source = ?, source_error = ? WHERE name = ?`, r.Sealed, c.TokenURL, c.ClientID, string(extra), nanos(c.ExpiresAt), nanos(c.RefreshFailed),
			c.Source, c.SourceError, c.Name)
		return oneRow(res, err, pool.NoCredential(c.Name))
	})
}

// oneRow turns a statement that met no row into the error that something is missing.
func oneRow(res sql.Result, err, missing error) error {
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if n == 0 {
		return missing
	}
	return nil
}

// RemoveCredential deletes a credential that no pool holds.
func (db *DB) RemoveCredential(ctx context.Context, name string) error {
	return db.change(ctx, func(tx *sql.Tx) error {
		var holder string
		err := tx.QueryRowContext(ctx, `SELECT p.name FROM pools p JOIN members m ON m.pool_id = p.id
			JOIN credentials c ON c.id = m.credential_id WHERE c.name = ?`, name).Scan(&holder)
		if err == nil {
			return pool.Conflict("credential %q is a member of pool %q: remove it there first", name, holder)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("look for members: %w", err)
		}
		res, err := tx.ExecContext(ctx, `DELETE FROM credentials WHERE name = ?`, name)
		return oneRow(res, err, pool.NoCredential(name))
	})
}

// Credential reads a credential.
func (db *DB) Credential(ctx context.Context, name string) (pool.CredentialRecord, error) {
	found, err := credentials(ctx, db.read, `WHERE c.name = ?`, name)
	if err != nil {
		return pool.CredentialRecord{}, err
	}
	if len(found) == 0 {
		return pool.CredentialRecord{}, pool.NoCredential(name)
	}
	return found[0], nil
}

func credentials(ctx context.Context, from querier, which string, args ...any) ([]pool.CredentialRecord, error) {
	rows, err := from.QueryContext(ctx, `SELECT c.name, c.type, c.sealed, c.token_url, c.client_id, c.extra_headers, c.expires_at, c.refresh_failed,
		c.source, c.source_error, COALESCE(p.name, '')
		FROM credentials c LEFT JOIN members m ON m.credential_id = c.id LEFT JOIN pools p ON p.id = m.pool_id `+which+` ORDER BY c.id`, args...)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []pool.CredentialRecord
	for rows.Next() {
		var (
			r       pool.CredentialRecord
			extra   string
			expires int64
			failed  int64
		)
		c := &r.Credential
		if err := rows.Scan(&c.Name, &c.Type, &r.Sealed, &c.TokenURL, &c.ClientID, &extra, &expires, &failed, &c.Source, &c.SourceError, &c.Pool); err != nil {
			return nil, fmt.Errorf("read a credential: %w", err)
		}
		if err := json.Unmarshal([]byte(extra), &c.ExtraHeaders); err != nil {
			return nil, fmt.Errorf("read credential %s: %w", c.Name, err)
		}
		c.ExpiresAt, c.RefreshFailed = instant(expires), instant(failed)
		all = append(all, r)
	}
	return all, rows.Err()
}
