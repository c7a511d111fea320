package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/sluice-proxy/sluice/intercept/ca"
	"github.com/sluice-proxy/sluice/intercept/netns"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

const members = 10 // of each pool

func curves() []curve {
	tens := []int{10, 100, 1000, 10000}
	return []curve{
		{"pools", "a request: route, lease and judgement, of a random one of the pools, 10 members each, all of one host", "pools", tens, pools},
		{"changes", "a credential and a pool of it made, given another member, and all removed again, durable", "pools", tens, changes},
		{"failover", "a refusal: the cooldown, the move to the next member and the events, durable", "pools", tens, failover},
		{"namespaces", "a dial out of a random one of the attached namespaces", "namespaces", []int{1, 10, 100, 1000}, namespaces},
		{"leaves", "a new leaf for a random one of the bound hosts", "hosts", []int{100, 1000, 10000, 100000}, leaves},
		{"events", "writing an event, and a reader's next ones", "events", []int{1000, 10000, 100000, 1000000}, events},
	}
}

// open seals nothing: what a vault costs is no part of a request.
type open struct{}

func (open) Encrypt(s vault.Secret) ([]byte, error) { return append([]byte(nil), s.Bytes()...), nil }

func (open) Decrypt(b []byte) (vault.Secret, error) {
	return vault.NewSecret(append([]byte(nil), b...)), nil
}

// keeper has that many pools, put into the database at once.
func keeper(ctx context.Context, dir string, n int) (*pool.Keeper, *store.DB, error) {
	db, err := store.Open(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	if err := db.Close(); err != nil { // the schema is there
		return nil, nil, err
	}
	if err := fill(ctx, dir, n); err != nil {
		return nil, nil, err
	}
	if db, err = store.Open(ctx, dir); err != nil {
		return nil, nil, err
	}
	k, err := pool.NewKeeper(ctx, pool.Options{Store: db, Vault: open{}, Log: slog.New(slog.DiscardHandler), ProbeInterval: -1})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return k, db, nil
}

func within(ctx context.Context, dir string, f func(tx *sql.Tx) error) error {
	c, err := sql.Open("sqlite", filepath.Join(dir, store.FileName))
	if err != nil {
		return err
	}
	defer c.Close()
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func fill(ctx context.Context, dir string, n int) error {
	return within(ctx, dir, func(tx *sql.Tx) error {
		for p := 1; p <= n; p++ {
			_, err := tx.ExecContext(ctx, `INSERT INTO pools (id, name, strategy, created_at) VALUES (?, ?, 'failover', ?)`, p, name(p), p)
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, `INSERT INTO bindings VALUES (?, 0, ?, 443, 'Authorization: Bearer {token}')`, p, host)
			if err != nil {
				return err
			}
			for m := range members {
				id := p*members + m
				sealed, err := json.Marshal(map[string][]byte{"secret": fmt.Appendf(nil, "sk-secret-of-member-%d", id)})
				if err != nil {
					return err
				}
				_, err = tx.ExecContext(ctx, `INSERT INTO credentials (id, name, type, sealed) VALUES (?, ?, 'static', ?)`, id, fmt.Sprintf("c%d", id), sealed)
				if err != nil {
					return err
				}
				_, err = tx.ExecContext(ctx, `INSERT INTO members (id, pool_id, credential_id, position) VALUES (?, ?, ?, ?)`, id, p, id, m)
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

const host = "api.example"

func name(p int) string { return fmt.Sprintf("pool-%d", p) }

func pools(ctx context.Context, dir string, n int) (func() error, func() error, error) {
	k, db, err := keeper(ctx, dir, n)
	if err != nil {
		return nil, nil, err
	}
	good := pool.Answer{Status: http.StatusOK}
	step := func() error {
		r, ok := k.Route(host, 443, []string{name(1 + rand.IntN(n))})
		if !ok {
			return errors.New("no route")
		}
		l, err := k.Acquire(ctx, r, nil)
		if err != nil {
			return err
		}
		_, err = k.Observe(ctx, l, good)
		return err
	}
	for p := 1; p <= n; p++ { // the first request of each pool asks the store for its member
		if _, err := k.Acquire(ctx, pool.Route{Pool: name(p), Host: host, Port: 443}, nil); err != nil {
			return nil, nil, err
		}
	}
	return step, func() error { k.Close(); return db.Close() }, nil
}

// changes are of a pool that shares its host with all others.
func changes(ctx context.Context, dir string, n int) (func() error, func() error, error) {
	k, db, err := keeper(ctx, dir, n)
	if err != nil {
		return nil, nil, err
	}
	next := 0
	step := func() error {
		next++
		added, others, made := fmt.Sprintf("added-%d", next), fmt.Sprintf("another-%d", next), fmt.Sprintf("made-%d", next)
		for _, c := range []string{added, others} {
			if _, err := k.AddCredential(ctx, pool.CredentialSpec{Name: c, Secret: vault.NewSecret([]byte("sk-" + c))}); err != nil {
				return err
			}
		}
		p := pool.Pool{Name: made, Members: []string{added}, Bindings: []pool.Binding{{Host: host, Port: 443, Header: "Authorization: Bearer {token}"}}}
		if _, err := k.CreatePool(ctx, p); err != nil {
			return err
		}
		return errors.Join(
			k.AddMember(ctx, made, others), k.RemovePool(ctx, made), k.RemoveCredential(ctx, added), k.RemoveCredential(ctx, others))
	}
	return step, func() error { k.Close(); return db.Close() }, nil
}

func failover(ctx context.Context, dir string, n int) (func() error, func() error, error) {
	k, db, err := keeper(ctx, dir, n)
	if err != nil {
		return nil, nil, err
	}
	refused := pool.Answer{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3600"}}}
	step := func() error {
		r := pool.Route{Pool: name(1 + rand.IntN(n)), Host: host, Port: 443}
		l, err := k.Acquire(ctx, r, nil)
		var out *pool.ExhaustedError
		if errors.As(err, &out) {
			return k.Clear(ctx, r.Pool, "")
		}
		if err != nil {
			return err
		}
		_, err = k.Observe(ctx, l, refused)
		return err
	}
	return step, func() error { k.Close(); return db.Close() }, nil
}

func namespaces(ctx context.Context, _ string, n int) (step func() error, undo func() error, err error) {
	var all []*netns.NS
	var made []*sandbox.Namespace
	var listeners []net.Listener
	undo = func() error {
		var errs []error
		for _, l := range listeners {
			errs = append(errs, l.Close())
		}
		for i := range made {
			errs = append(errs, all[i].Close(), made[i].Close())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo())
		}
	}()
	const addr = "198.18.79.1"
	for range n {
		ns, err := sandbox.NewNamespace()
		if err != nil {
			return nil, nil, err
		}
		made = append(made, ns)
		var inside *netns.NS
		if err := ns.Do(func() (err error) { inside, err = netns.Current(); return err }); err != nil {
			return nil, nil, err
		}
		all = append(all, inside)
		if err := ns.Own(addr + "/32"); err != nil {
			return nil, nil, err
		}
		l, err := ns.Listen(ctx, addr+":443")
		if err != nil {
			return nil, nil, err
		}
		listeners = append(listeners, l...)
		go func() {
			for {
				c, err := l[0].Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
	}
	to := netip.MustParseAddrPort(addr + ":443")
	return func() error {
		c, err := all[rand.IntN(n)].Dial(ctx, to)
		if err != nil {
			return err
		}
		_ = c.SetLinger(0) // no TIME_WAIT: ports would run out
		return c.Close()
	}, undo, nil
}

func leaves(_ context.Context, dir string, n int) (func() error, func() error, error) {
	a, err := ca.Open(dir, time.Now)
	if err != nil {
		return nil, nil, err
	}
	hosts := make([]string, n)
	// As pools are made: some hosts at a time, each time a further CA.
	for i := range hosts {
		hosts[i] = fmt.Sprintf("h%d.example", i)
	}
	const step = 1000
	for from := 0; from < n; from += step {
		if _, err := a.Permit(hosts[from:min(n, from+step)]); err != nil {
			a.Close()
			return nil, nil, err
		}
	}
	next := 0
	return func() error {
		// A subdomain that was not asked for before: it has no leaf yet.
		next++
		_, err := a.Leaf(fmt.Sprintf("n%d.%s", next, hosts[rand.IntN(n)]))
		return err
	}, func() error { a.Close(); return nil }, nil
}

func events(ctx context.Context, dir string, n int) (func() error, func() error, error) {
	db, err := store.Open(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	if err := db.Close(); err != nil {
		return nil, nil, err
	}
	err = within(ctx, dir, func(tx *sql.Tx) error {
		for i := range n {
			_, err := tx.ExecContext(ctx, `INSERT INTO events (time, kind, pool, detail) VALUES (?, 'cred_failover', 'pool', 'something happened')`, i)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if db, err = store.Open(ctx, dir); err != nil {
		return nil, nil, err
	}
	return func() error {
		if err := db.Apply(ctx, pool.Change{Events: []pool.Event{{Kind: pool.EventFailover, Pool: "pool"}}, At: time.Now()}); err != nil {
			return err
		}
		got, err := db.EventsAfter(ctx, rand.Int64N(int64(n)), 10)
		if err == nil && len(got) == 0 {
			err = errors.New("no events")
		}
		return err
	}, db.Close, nil
}
