package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/pool"
)

func mustOpen(t testing.TB, dir string) *DB {
	t.Helper()
	db, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// populate fills every table.
func populate(t testing.TB, db *DB) {
	t.Helper()
	ctx := t.Context()
	at := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)
	for i, name := range []string{"a", "b", "c"} {
		r := pool.CredentialRecord{Credential: pool.Credential{Name: name, Type: pool.Static}, Sealed: []byte{byte(i)}}
		if i == 2 {
			r.Credential = pool.Credential{Name: name, Type: pool.OAuth, TokenURL: "https://auth.example/t", ClientID: "x", ExtraHeaders: []string{"X-A"}, ExpiresAt: at, Source: "file:/x"}
		}
		if err := db.AddCredential(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []pool.Pool{
		{Name: "p", Strategy: pool.Failover, Members: []string{"b", "a"}, Provider: "openai", Bindings: []pool.Binding{{Host: "api.openai.com", Port: 443, Header: "Authorization: Bearer {token}"}}},
		{Name: "q", Strategy: pool.Failover, Members: []string{"c"}, Bindings: []pool.Binding{{Host: "h.example", Port: 8443, Header: "x: {token}"}, {Host: "i.example", Port: 443, Header: "x: {token}"}}},
	} {
		if err := db.CreatePool(ctx, p, at, nil); err != nil {
			t.Fatal(err)
		}
	}
	change := pool.Change{
		Pool: 1, At: at, Active: 2, Parked: map[int64]bool{1: true},
		Cooldowns: map[int64]pool.Cooldown{1: {Began: at, Until: at.Add(time.Hour), Reason: "r", Unhinted: 2, ProbeAt: at.Add(time.Minute)}},
		Events:    []pool.Event{{Kind: pool.EventFailover, Pool: "p", Member: "b", Reason: "r", Detail: "d"}},
		To:        pool.StateExhausted, EdgeEvent: pool.Event{Kind: pool.EventExhausted, Pool: "p"},
	}
	if err := db.Apply(ctx, change); err != nil {
		t.Fatal(err)
	}
	if err := db.SaveTarget(ctx, Target{ID: "t1", Kind: "cgroup", Ref: "/x", Pools: []string{"p"}, CreatedAt: at}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.InstallationKey(ctx); err != nil {
		t.Fatal(err)
	}
}

// dump is every row of every table but the migrations' own, column by column.
func dump(t testing.TB, db *DB) map[string][]map[string]any {
	t.Helper()
	all := make(map[string][]map[string]any)
	for _, table := range []string{"settings", "credentials", "pools", "members", "bindings", "cooldowns", "events", "targets"} {
		rows, err := db.sql.QueryContext(t.Context(), "SELECT * FROM "+table)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				t.Fatal(err)
			}
			row := make(map[string]any)
			for i, c := range columns {
				row[c] = *values[i].(*any)
			}
			all[table] = append(all[table], row)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// within is a dump with only the columns that an older schema has.
func within(old, d map[string][]map[string]any) map[string][]map[string]any {
	cut := make(map[string][]map[string]any)
	for table, rows := range d {
		for _, row := range rows {
			kept := maps.Clone(row)
			maps.DeleteFunc(kept, func(column string, _ any) bool { _, had := old[table][0][column]; return !had })
			cut[table] = append(cut[table], kept)
		}
	}
	return cut
}

// TestMigrationsKeepEveryRow goes down from each schema to each older one and up
// again: what both know is the same in every row.
func TestMigrationsKeepEveryRow(t *testing.T) {
	t.Parallel()
	const latest = 10
	for low := int64(1); low < latest; low++ {
		db := mustOpen(t, t.TempDir())
		populate(t, db)
		if err := db.SetAuthResetTarget(t.Context(), "p", "openai-codex"); err != nil {
			t.Fatal(err)
		}
		before := dump(t, db)
		for table, rows := range before {
			if len(rows) == 0 {
				t.Fatalf("table %s has no rows to lose", table)
			}
		}
		for to := int64(latest) - 1; to >= low; to-- {
			if err := db.migrateTo(t.Context(), to); err != nil {
				t.Fatal(err)
			}
		}
		old := dump(t, db)
		if diff := cmp.Diff(within(old, before), old); diff != "" {
			t.Fatalf("down to %d changed rows (-before +after):\n%s", low, diff)
		}
		for to := low + 1; to <= latest; to++ {
			if err := db.migrateTo(t.Context(), to); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(old, within(old, dump(t, db))); diff != "" {
			t.Fatalf("up again from %d changed rows (-before +after):\n%s", low, diff)
		}
	}
}

func TestMigratedAllTheWayDownLeavesNothing(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, t.TempDir())
	populate(t, db)
	if err := db.migrateTo(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := db.sql.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'
		AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'goose_%'`).Scan(&left); err != nil || left != 0 {
		t.Fatalf("all the way down leaves %d tables, %v", left, err)
	}
}

func TestReopenFindsEverything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := mustOpen(t, dir)
	populate(t, db)
	before := dump(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, dump(t, mustOpen(t, dir))); diff != "" {
		t.Fatal(diff)
	}
}

func TestDamagedFileIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"not a database": func([]byte) []byte {
			return []byte("this is no database, not even nearly, but it is long enough to be one...")
		},
		"header overrun":  func(b []byte) []byte { copy(b[16:], "garbage garbage garbage"); return b },
		"a page in it":    func(b []byte) []byte { copy(b[4096:], strings.Repeat("x", 4096)); return b },
		"cut in the half": func(b []byte) []byte { return b[:len(b)/2] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			db := mustOpen(t, dir)
			populate(t, db)
			if _, err := db.sql.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, FileName)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data = damage(data)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), dir)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) || strings.Count(err.Error(), ErrDamaged.Error()) != 1 {
				t.Fatalf("got %v, want ErrDamaged naming %s", err, path)
			}
			if err := Copy(t.Context(), dir, filepath.Join(t.TempDir(), "copy")); err != nil && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path)) {
				t.Errorf("its copy: %v", err)
			}
			after, err := os.ReadFile(path)
			if err != nil || !slices.Equal(data, after) {
				t.Fatalf("the damaged file was changed (%v)", err)
			}
		})
	}
}

func TestSecondDaemonIsToldWho(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustOpen(t, dir)
	_, err := Open(t.Context(), dir)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("got %v, want ErrLocked with pid %d", err, os.Getpid())
	}
}

// A child has every file of its parent's from fork(2) to execve(2): the directory is given back nevertheless.
func TestUnlockedWhileAChildHasTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.Dup(int(db.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := mustOpen(t, dir)
	if _, err := db.sql.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "newer release") {
		t.Fatalf("got %v, want a word about a newer release", err)
	}
}

func TestEdgeHasOneAuthor(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, t.TempDir())
	populate(t, db)
	change := pool.Change{Pool: 2, To: pool.StateExhausted, EdgeEvent: pool.Event{Kind: pool.EventExhausted, Pool: "q"}, At: time.Now()}
	for range 3 {
		if err := db.Apply(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	events, err := db.LastEvents(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Pool == "q" {
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d exhausted events, want 1", n)
	}
}

func TestTransactionLeavesNothingOnError(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, t.TempDir())
	populate(t, db)
	before := dump(t, db)
	err := db.CreatePool(t.Context(), pool.Pool{Name: "r", Strategy: pool.Failover, Members: []string{"nobody"}}, time.Now(), nil)
	var e *pool.Error
	if !errors.As(err, &e) || e.Code != pool.CodeNotFound {
		t.Fatalf("got %v, want not found", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.tx(ctx, func(*sql.Tx) error { return nil }); err == nil {
		t.Fatal("a cancelled context wrote")
	}
	if diff := cmp.Diff(before, dump(t, db)); diff != "" {
		t.Fatal(diff)
	}
}

// TestAnotherProcessHasItLocked: whoever wants to store something is told that, and who reads does not wait.
func TestAnotherProcessHasItLocked(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, t.TempDir())
	populate(t, db)
	other, err := sql.Open("sqlite", "file:"+db.path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if cfg, err := db.Config(t.Context()); err != nil || len(cfg.Pools) != 2 || len(cfg.Credentials) != 3 {
		t.Errorf("read %+v, %v", cfg, err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("reading waited for who writes: %s", took)
	}
	err = db.RemovePool(t.Context(), "p")
	var known *pool.Error
	if !errors.As(err, &known) || known.Code != pool.CodeUnavailable || !strings.Contains(err.Error(), "another process has "+db.path+" locked") {
		t.Errorf("error is %v, want one that says who is in the way", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := db.RemovePool(t.Context(), "p"); err != nil {
		t.Errorf("unlocked, and yet: %v", err)
	}
	if cfg, err := db.Config(t.Context()); err != nil || len(cfg.Pools) != 1 {
		t.Errorf("read %+v, %v", cfg, err)
	}
}
