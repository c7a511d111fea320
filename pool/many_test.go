package pool_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// countingVault counts what is opened.
type countingVault struct {
	pool.Vault
	opened *atomic.Int64
}

func (v countingVault) Decrypt(sealed []byte) (vault.Secret, error) {
	v.opened.Add(1)
	return v.Vault.Decrypt(sealed)
}

// TestAChangeOpensWhatChanged: and not each secret there is, which would make every change the slower the more there are.
func TestAChangeOpensWhatChanged(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	b := newBench(t, nil)
	b.stop()
	b.lock = func(v pool.Vault) pool.Vault { return countingVault{v, &opened} }
	b.start(t)
	r := b.pool(t, "a", "b", "c")
	b.add(t, "d")
	step := func(what string, most int64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if n := opened.Swap(0); n > most {
			t.Errorf("%s opens %d secrets, want %d at most", what, n, most)
		}
	}
	step("a pool of three", 3, nil)
	step("another member", 1, b.AddMember(t.Context(), "p", "d"))
	step("one that leaves", 0, b.RemoveMember(t.Context(), "p", "d"))
	secret := vault.NewSecret([]byte("sk-other"))
	_, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{Secret: &secret})
	step("another secret", 2, err)
	if l := b.acquire(t, r); l.Member != "a" || string(l.Inject[0].Value) != "Bearer sk-other" {
		t.Errorf("%s carries %q", l.Member, l.Inject[0].Value)
	}
	step("a removed pool", 0, b.RemovePool(t.Context(), "p"))
}

// countingStore counts how often everything is read.
type countingStore struct {
	pool.Store
	read *atomic.Int64
}

func (s countingStore) Config(ctx context.Context) (pool.Config, error) {
	s.read.Add(1)
	return s.Store.Config(ctx)
}

// TestTheThousandthPool takes nothing of the others, nor does a change of it.
func TestTheThousandthPool(t *testing.T) {
	t.Parallel()
	var read atomic.Int64
	b := newBench(t, nil)
	b.stop()
	b.wrap = func(s pool.Store) pool.Store { return countingStore{s, &read} }
	b.start(t)
	b.pool(t, "a")
	b.add(t, "b", "c")
	secret := vault.NewSecret([]byte("sk-other"))
	_, updated := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{Secret: &secret})
	for what, err := range map[string]error{
		"add a member":         b.AddMember(t.Context(), "p", "b"),
		"take one out":         b.RemoveMember(t.Context(), "p", "a"),
		"set a reset's target": b.SetAuthResetTarget(t.Context(), "p", "openai"),
		"remove the pool":      b.RemovePool(t.Context(), "p"),
		"update a credential":  updated,
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := read.Load(); n > 1 { // at the start
		t.Errorf("everything was read %d times", n)
	}
}

// TestTheTenThousandthCredential costs what the first did: nothing is read or opened of the others for it, but that of
// accounts the refresh tokens are made known once.
func TestTheTenThousandthCredential(t *testing.T) {
	t.Parallel()
	var read, opened atomic.Int64
	b := newBench(t, nil)
	b.stop()
	b.lock = func(v pool.Vault) pool.Vault { return countingVault{v, &opened} }
	b.wrap = func(s pool.Store) pool.Store { return countingStore{s, &read} }
	b.start(t)
	account := func(name, refresh string) error {
		_, err := b.AddCredential(t.Context(), pool.CredentialSpec{
			Name: name, Type: pool.OAuth, TokenURL: "https://auth.example/token",
			OAuth: &pool.OAuthTokens{
				AccessToken: vault.NewSecret([]byte("at-" + name)), RefreshToken: vault.NewSecret([]byte(refresh)), ExpiresAt: b.clock().Add(time.Hour),
			},
		})
		return err
	}
	for i := range 50 {
		b.add(t, fmt.Sprintf("key-%d", i))
		if err := account(fmt.Sprintf("account-%d", i), fmt.Sprintf("rt-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := read.Load(); n > 2 { // at the start, and for the first account
		t.Errorf("everything was read %d times", n)
	}
	if n := opened.Load(); n > 0 {
		t.Errorf("%d secrets were opened", n)
	}
	if err := account("another", "rt-7"); err == nil || !strings.Contains(err.Error(), "account-7") {
		t.Error("took the refresh token of another account")
	}
	for i := range 25 {
		for _, name := range []string{fmt.Sprintf("key-%d", i), fmt.Sprintf("account-%d", i)} {
			if err := b.RemoveCredential(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := read.Load(); n > 2 {
		t.Errorf("to remove some, everything was read: %d times in all", n)
	}
	if err := account("another", "rt-7"); err != nil {
		t.Errorf("whose it was is gone: %v", err)
	}
	before, err := b.Credentials(t.Context())
	if err != nil || len(before) != 51 {
		t.Fatalf("%d credentials, %v", len(before), err)
	}
	b.restart(t)
	after, err := b.Credentials(t.Context())
	if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("after a restart %v, before %v: %v", after, before, err)
	}
	if err := account("one-more", "rt-30"); err == nil || !strings.Contains(err.Error(), "account-30") {
		t.Error("took the refresh token of another account after a restart")
	}
}
