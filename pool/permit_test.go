package pool_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// TestNothingIsBoundThatIsNotPermitted: a change that binds hosts for which no certificate can be made is not made at all, and
// nobody finds it in the log of events.
func TestNothingIsBoundThatIsNotPermitted(t *testing.T) {
	t.Parallel()
	var asked []string
	var refusal error
	b := newBench(t, func(o *pool.Options) {
		o.Permit = func(hosts []string) error {
			asked = hosts
			return refusal
		}
	})
	b.add(t, "a")
	tokens := &pool.OAuthTokens{
		AccessToken: vault.NewSecret([]byte("at")), RefreshToken: vault.NewSecret([]byte("rt")), ExpiresAt: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if _, err := b.AddCredential(t.Context(), pool.CredentialSpec{Name: "o", Type: pool.OAuth, TokenURL: "https://auth.example/token", OAuth: tokens}); err != nil {
		t.Fatal(err)
	}
	elsewhere := "https://elsewhere.example/token"
	for _, step := range []struct {
		name  string
		do    func() error
		hosts []string
	}{
		{"pool create", func() error {
			_, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"a"}, Provider: "codex"})
			return err
		}, []string{"auth.openai.com", "chatgpt.com"}},
		{"pool add-member", func() error { return b.AddMember(t.Context(), "p", "o") }, []string{"auth.example"}},
		{"cred update", func() error {
			_, err := b.UpdateCredential(t.Context(), "o", pool.CredentialChange{TokenURL: &elsewhere})
			return err
		}, []string{"elsewhere.example"}},
	} {
		before := b.dump(t)
		asked, refusal = nil, errors.New("the directory is read-only")
		if err := step.do(); !errors.Is(err, refusal) {
			t.Errorf("%s: %v", step.name, err)
		}
		if slices.Sort(asked); !slices.Equal(asked, step.hosts) {
			t.Errorf("%s: asked for %q, want %q", step.name, asked, step.hosts)
		}
		if after := b.dump(t); after != before {
			t.Errorf("%s is half made:\n%s\nbefore:\n%s", step.name, after, before)
		}
		if refusal = nil; step.do() != nil {
			t.Errorf("%s: refused for ever", step.name)
		}
		if b.dump(t) == before {
			t.Errorf("%s: nothing has changed", step.name)
		}
	}
}
