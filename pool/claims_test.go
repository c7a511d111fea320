package pool_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// tokenWith is a JWT with these claims and no signature to speak of.
func tokenWith(claims string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + part([]byte(claims)) + "." + part([]byte("signature"))
}

func TestTheAccountIsTakenFromTheTokensClaims(t *testing.T) {
	t.Parallel()
	account := func(id string) string {
		return tokenWith(fmt.Sprintf(`{"exp":4102444800,"https://api.openai.com/auth":{"chatgpt_account_id":%s}}`, id))
	}
	for name, c := range map[string]struct {
		token, given, provider, want string
	}{
		"in the claims":        {token: account(`"acc-1"`), provider: "codex", want: "acc-1"},
		"given":                {token: account(`"acc-1"`), given: "acc-2", provider: "codex", want: "acc-2"},
		"another provider":     {token: account(`"acc-1"`), provider: "openai"},
		"not a JWT":            {token: "opaque", provider: "codex"},
		"two parts":            {token: "a.b", provider: "codex"},
		"claims not base64":    {token: "a.!!.c", provider: "codex"},
		"claims not an object": {token: tokenWith(`["x"]`), provider: "codex"},
		"no such claim":        {token: tokenWith(`{"exp":1}`), provider: "codex"},
		"claim of another kind": {
			token: tokenWith(`{"https://api.openai.com/auth":"acc-1"}`), provider: "codex",
		},
		"account of another kind": {token: account(`7`), provider: "codex"},
		"account with a line":     {token: account(`"a\r\nx-evil: 1"`), provider: "codex"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			spec := pool.CredentialSpec{
				Name: "a", Type: pool.OAuth,
				OAuth: &pool.OAuthTokens{
					AccessToken: vault.NewSecret([]byte(c.token)), RefreshToken: vault.NewSecret([]byte("rt")), ExpiresAt: b.clock().Add(time.Hour),
				},
			}
			if c.given != "" {
				spec.ExtraHeaders = []pool.ExtraHeader{{Name: "ChatGPT-Account-Id", Value: vault.NewSecret([]byte(c.given))}}
			}
			if _, err := b.AddCredential(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			host := map[string]string{"codex": "chatgpt.com", "openai": "api.openai.com"}[c.provider]
			if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"a"}, Provider: c.provider}); err != nil {
				t.Fatal(err)
			}
			r, _ := b.Route(host, 443, nil)
			var got []string
			for _, f := range b.acquire(t, r).Inject {
				if f.Name == "chatgpt-account-id" {
					got = append(got, string(f.Value))
				}
			}
			if strings.Join(got, ",") != c.want {
				t.Errorf("requests name the accounts %q, want %q", got, c.want)
			}
		})
	}
}
