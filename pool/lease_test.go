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
