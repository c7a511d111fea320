// Package store keeps pools, credentials, cooldowns, events and targets in SQLite:
// the one place in which a restart finds everything again.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/sluice-proxy/sluice/pool"
)

// FileName is the database's name in the state directory.
const FileName = "sluice.db"

var (
	// ErrLocked means that another daemon uses the state directory.
	ErrLocked = errors.New("state directory is in use")
	// ErrDamaged means that the file is no intact database; it is left as it is.
	ErrDamaged = errors.New("damaged database")
)

// DB is an open store. It may be used concurrently.
type DB struct {
	// sql writes, on one connection: who waits for it waits in a queue, in order,
	// where SQLite would have them try again and again.
	sql *sql.DB
	// read only reads, and waits for nobody: what it sees is the last commit.
	read *sql.DB
	path string
	lock *os.File
}

// maxReaders is how many reads go on at once.
const maxReaders = 4

// Open opens the database in a state directory, which must exist, and brings its
// schema up to date. The directory is locked until Close.
//
// Errors: [ErrLocked], [ErrDamaged].
func Open(ctx context.Context, dir string) (_ *DB, err error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	db := &DB{path: filepath.Join(dir, FileName), lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(db.explain(err), db.Close())
		}
	}()
	// The secrets are encrypted; the names in it are nobody's business either.
	if f, err := os.OpenFile(db.path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	} else if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if db.sql, err = db.connect(1, "foreign_keys(1)", "journal_mode(WAL)",
		// A refused credential must be known after a power cut too: it would be used again.
		"synchronous(FULL)"); err != nil {
		return nil, err
	}
	if db.read, err = db.connect(maxReaders, "query_only(1)"); err != nil {
		return nil, err
	}
	if err := db.check(ctx); err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, err
	}
	return db, nil
}

// connect opens at most n connections.
func (db *DB) connect(n int, pragmas ...string) (*sql.DB, error) {
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: db.path, RawQuery: url.Values{
		// Others may have the file open: a backup, or somebody who looks.
		"_pragma": append([]string{"busy_timeout(5000)"}, pragmas...),
		// A transaction that reads and then writes must not find another one in between.
		"_txlock": {"immediate"},
	}.Encode()}
	c, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	c.SetMaxOpenConns(n)
	c.SetMaxIdleConns(n)
	return c, nil
}

// Close releases the database and the state directory.
func (db *DB) Close() error {
	var errs []error
	for _, c := range []*sql.DB{db.read, db.sql} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(append(errs, unlockDir(db.lock))...)
}

// lockDir takes the state directory for this process.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	switch {
	case errors.Is(err, unix.EROFS):
		return nil, fmt.Errorf("lock the state directory: %w: mount it read-write, or use another --state-dir", err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return nil, fmt.Errorf("lock the state directory: %w: make room", err)
	case err != nil:
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.Read(holder)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w by another sluice (pid %s): stop that one, or use another --state-dir", dir, ErrLocked, holder[:n])
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The pid is for people; the lock is what counts.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d", os.Getpid())
	}
	return f, nil
}

// unlockDir gives the state directory back, also where a child that this process has just forked still has the file.
func unlockDir(lock *os.File) error {
	return errors.Join(unix.Flock(int(lock.Fd()), unix.LOCK_UN), lock.Close())
}

// check looks at every page, so that damage is found before anything is changed.
func (db *DB) check(ctx context.Context) error {
	var result string
	if err := db.sql.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return fmt.Errorf("%w: %s", ErrDamaged, result)
	}
	return nil
}

// explain names the file and the way out when the database is what is wrong.
func (db *DB) explain(err error) error {
	var e *sqlite.Error
	damaged := errors.Is(err, ErrDamaged)
	if errors.As(err, &e) {
		switch e.Code() & 0xff { // the primary code
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			damaged = true
		}
	}
	if !damaged {
		return db.sayWhy(err)
	}
	why := strings.TrimPrefix(err.Error(), ErrDamaged.Error()+": ")
	return fmt.Errorf("%s: %w (SQLite: %s): it was left as it is; restore it from a backup, or move it away to begin with an empty one", db.path, ErrDamaged, why)
}

// tx runs f in a transaction.
func (db *DB) tx(ctx context.Context, f func(*sql.Tx) error) error {
	return db.sayWhy(db.inTx(ctx, f))
}

// exec runs one statement that changes something.
func (db *DB) exec(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	res, err := db.sql.ExecContext(ctx, statement, args...)
	return res, db.sayWhy(err)
}

// sayWhy says what is to be done where it is the disk, or somebody else, that keeps anything from being stored.
func (db *DB) sayWhy(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return pool.Unavailable("the disk that holds %s is full, and nothing can be stored: make room and try again", db.path)
	case sqlite3.SQLITE_BUSY:
		return pool.Unavailable("another process has %s locked, and nothing can be stored: end it ('fuser -v %s' names it) and try again", db.path, db.path)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY:
		return pool.Unavailable("the disk that holds %s takes no more (%s), and nothing can be stored: see the kernel's log (dmesg), mend the disk and try again",
			db.path, e)
	}
	return err
}

func (db *DB) inTx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := db.sql.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := f(tx); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// ignoreDone drops what Rollback says of a transaction that a cancelled context ended.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// nanos and instant keep the zero time apart from 1970. What is too far away to be counted, as the end of a token that
// is good until the year 9999, becomes the furthest that is not.
func nanos(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

func instant(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
