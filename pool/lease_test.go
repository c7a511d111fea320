package pool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

func TestLeaseCarriesTheMember(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	l := b.acquire(t, b.pool(t, "a", "b"))
	if l.Member != "a" || len(l.Inject) != 1 || l.Inject[0].Name != "authorization" || string(l.Inject[0].Value) != "Bearer sk-a" {
		t.Fatalf("got %s with %d fields", l.Member, len(l.Inject))
	}
	if len(l.Strip) != 1 || l.Strip[0] != "authorization" {
		t.Fatalf("strips %v", l.Strip)
	}
}

// shown is what a lease puts on the wire: a Field does not print.
func shown(l pool.Lease) string {
	var all []string
	for _, f := range l.Inject {
		all = append(all, "{"+f.Name+" "+string(f.Value)+"}")
	}
	return fmt.Sprint(all)
}

func TestPresetsForKindsOfCredentials(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.add(t, "key")
	if _, err := b.AddCredential(t.Context(), pool.CredentialSpec{
		Name: "account", Type: pool.OAuth, OAuth: &pool.OAuthTokens{
			AccessToken: vault.NewSecret([]byte("at")), RefreshToken: vault.NewSecret([]byte("rt")), ExpiresAt: b.clock().Add(time.Hour),
		}, ExtraHeaders: []pool.ExtraHeader{{Name: "X-Account", Value: vault.NewSecret([]byte("7"))}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"key", "account"}, Provider: "anthropic"}); err != nil {
		t.Fatal(err)
	}
	r, _ := b.Route("api.anthropic.com", 443, nil)
	got := shown(b.acquire(t, r))
	if got != "[{x-api-key sk-key}]" {
		t.Fatalf("static: %s", got)
	}
	got = shown(b.acquire(t, r, "key"))
	if got != "[{authorization Bearer at} {x-account 7}]" {
		t.Fatalf("oauth: %s", got)
	}
}

// An answer is looked through for what went with its own request, and of that for what is secret for sure. The threat model says so.
func TestEchoesThatAreNotLookedFor(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.add(t, "first-of-two")
	if _, err := b.AddCredential(t.Context(), pool.CredentialSpec{
		Name: "account", Type: pool.OAuth, OAuth: &pool.OAuthTokens{
			AccessToken: vault.NewSecret([]byte("access-token")), RefreshToken: vault.NewSecret([]byte("refresh-token")), ExpiresAt: b.clock().Add(time.Hour),
		}, ExtraHeaders: []pool.ExtraHeader{{Name: "X-Account", Value: vault.NewSecret([]byte("one-account-of-many"))}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"first-of-two", "account"}, Provider: "anthropic"}); err != nil {
		t.Fatal(err)
	}
	r, _ := b.Route("api.anthropic.com", 443, nil)
	first, account := b.acquire(t, r), b.acquire(t, r, "first-of-two")
	for secret, found := range map[string][2]bool{
		"sk-first-of-two": {true, false}, "access-token": {false, true}, "refresh-token": {false, true}, "one-account-of-many": {},
	} {
		if got := [2]bool{first.Echo.Contains([]byte(secret)), account.Echo.Contains([]byte(secret))}; got != found {
			t.Errorf("%s: found %t, want %t", secret, got, found)
		}
	}
}

// Anthropic takes the token of an account from those who name the beta, whatever the agent
// says of itself; a key needs no such thing.
func TestAnthropicIsToldOfAccounts(t *testing.T) {
	t.Parallel()
	const setup = "sk-ant-oat01-of-a-year"
	account := func() *pool.OAuthTokens {
		return &pool.OAuthTokens{AccessToken: vault.NewSecret([]byte("at")), RefreshToken: vault.NewSecret([]byte("rt"))}
	}
	beta := []pool.ExtraHeader{{Name: "Anthropic-Beta", Value: vault.NewSecret([]byte("mine"))}}
	for name, c := range map[string]struct {
		spec       pool.CredentialSpec
		header     string // of the binding; "": the preset's
		want, also string
	}{
		"key":            {pool.CredentialSpec{Secret: vault.NewSecret([]byte("sk-ant-api03-x"))}, "", "[{x-api-key sk-ant-api03-x}]", ""},
		"account":        {pool.CredentialSpec{Type: pool.OAuth, OAuth: account()}, "", "[{authorization Bearer at}]", "oauth-2025-04-20"},
		"setup token":    {pool.CredentialSpec{Secret: vault.NewSecret([]byte(setup))}, "", "[{authorization Bearer " + setup + "}]", "oauth-2025-04-20"},
		"field given":    {pool.CredentialSpec{Type: pool.OAuth, OAuth: account(), ExtraHeaders: beta}, "", "[{authorization Bearer at} {anthropic-beta mine}]", ""},
		"header of ours": {pool.CredentialSpec{Secret: vault.NewSecret([]byte(setup))}, "X-Token: {token}", "[{x-token " + setup + "}]", ""},
	} {
		b := newBench(t, nil)
		c.spec.Name = "a"
		if _, err := b.AddCredential(t.Context(), c.spec); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := pool.Pool{Name: "p", Members: []string{"a"}, Provider: "anthropic"}
		if c.header != "" {
			p.Bindings = []pool.Binding{{Host: "api.anthropic.com", Port: 443, Header: c.header}}
		}
		if _, err := b.CreatePool(t.Context(), p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r, _ := b.Route("api.anthropic.com", 443, nil)
		l := b.acquire(t, r)
		also := ""
		for _, f := range l.Also {
			also += string(f.Value)
		}
		if got := shown(l); got != c.want || also != c.also {
			t.Errorf("%s: %s, and %q", name, got, also)
		}
	}
}
