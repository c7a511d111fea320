package pool_test

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// oauthPool is a pool "p" of the accounts "a" and "b", whose tokens are named after them.
func oauthPool(t *testing.T, provider, tokenURL string) *bench {
	t.Helper()
	b := newBench(t, nil)
	for _, name := range []string{"a", "b"} {
		spec := pool.CredentialSpec{
			Name: name, Type: pool.OAuth, TokenURL: tokenURL,
			OAuth: &pool.OAuthTokens{
				AccessToken: vault.NewSecret([]byte("at-" + name)), RefreshToken: vault.NewSecret([]byte("rt-" + name)), ExpiresAt: b.clock().Add(time.Hour),
			},
		}
		if _, err := b.AddCredential(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"a", "b"}, Provider: provider}); err != nil {
		t.Fatal(err)
	}
	return b
}

func agentTokens(t *testing.T, b *bench) pool.AgentTokens {
	t.Helper()
	tokens, err := b.AgentTokens("p")
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestPlaceholderTokensLookReal(t *testing.T) {
	t.Parallel()
	b := oauthPool(t, "codex", "")
	held := agentTokens(t, b)
	for _, token := range []string{held.AccessToken, held.IDToken} {
		parts := strings.Split(token, ".")
		if len(parts) != 3 {
			t.Fatalf("%s is no JWT", token)
		}
		var claims struct {
			Exp  int64 `json:"exp"`
			Auth struct {
				ID string `json:"chatgpt_account_id"`
			} `json:"https://api.openai.com/auth"`
		}
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil || json.Unmarshal(text, &claims) != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if time.Unix(claims.Exp, 0).Before(time.Now().AddDate(20, 0, 0)) || len(claims.Auth.ID) != 36 {
			t.Errorf("claims %s", text)
		}
		if _, err := base64.RawURLEncoding.DecodeString(parts[2]); err != nil {
			t.Errorf("signature: %v", err)
		}
	}
	if held.AccessToken == held.IDToken || held.RefreshToken == "" {
		t.Errorf("%+v", held)
	}
	b.answer(t, b.acquire(t, pool.Route{Pool: "p", Host: "chatgpt.com", Port: 443}), 429, "60")
	b.restart(t)
	if got := agentTokens(t, b); got != held {
		t.Error("other tokens after a switch of members and a restart")
	}
	if other := agentTokens(t, oauthPool(t, "codex", "")); other.AccessToken == held.AccessToken || other.RefreshToken == held.RefreshToken {
		t.Error("another installation gives out the same tokens")
	}
	if _, err := b.AgentTokens("q"); err == nil {
		t.Error("tokens of a pool that there is none of")
	}
}

func TestWhoIsAnsweredWithPlaceholders(t *testing.T) {
	t.Parallel()
	b := oauthPool(t, "codex", "")
	held, foreign := agentTokens(t, b), agentTokens(t, oauthPool(t, "codex", ""))
	update := func(name, refresh string) {
		t.Helper()
		tokens := &pool.OAuthTokens{
			AccessToken: vault.NewSecret([]byte("at-new")), RefreshToken: vault.NewSecret([]byte(refresh)), ExpiresAt: b.clock().Add(time.Hour),
		}
		if _, err := b.UpdateCredential(t.Context(), name, pool.CredentialChange{OAuth: tokens}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 { // the first that there was is known all the same
		update("b", "rt-b-"+string(rune('A'+i)))
	}
	b.restart(t)
	for value, want := range map[string]bool{
		held.AccessToken: true, held.RefreshToken: true, held.IDToken: true,
		"rt-a": true, "at-a": true, "rt-b": true, "rt-b-A": true, "rt-b-" + string(rune('A'+39)): true,
		foreign.AccessToken: false, foreign.RefreshToken: false, foreign.IDToken: false,
		held.AccessToken + "x": false, "": false, "rt-c": false,
	} {
		body, known := b.StandIn([]string{"refresh_token", value})
		if known != want {
			t.Errorf("%q: known %t", value, known)
		}
		var got pool.AgentTokens
		if known && (json.Unmarshal(body, &got) != nil || got != held || !strings.Contains(string(body), `"token_type":"Bearer"`)) {
			t.Errorf("%q: answered %s", value, body)
		}
	}
}

func TestTokenEndpointsAreBound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		provider, tokenURL, host string
		port                     uint16
		want                     pool.Route
		yes, no, revoke          string
	}{
		"the provider's": {
			"codex", "", "auth.openai.com", 443,
			pool.Route{Pool: "p", Host: "auth.openai.com", Port: 443, Tokens: true, Bare: true},
			"/oauth/token?x=/", "/oauth/authorize", "/oauth/revoke",
		},
		"the account's": {
			"openai", "https://Login.Example:8443/t", "login.example", 8443,
			pool.Route{Pool: "p", Host: "login.example", Port: 8443, Tokens: true, Bare: true},
			"/t", "/t/more", "/revoke",
		},
		"on the API's host": {
			"openai", "https://api.openai.com/token/", "api.openai.com", 443,
			pool.Route{Pool: "p", Host: "api.openai.com", Port: 443, Provider: "openai", Tokens: true},
			"//token", "/v1/responses", "/revoke",
		},
		"an address":    {"openai", "https://127.0.0.1/token", "127.0.0.1", 443, pool.Route{}, "", "/token", ""},
		"none":          {"openai", "", "api.openai.com", 443, pool.Route{Pool: "p", Host: "api.openai.com", Port: 443, Provider: "openai"}, "", "/oauth/token", ""},
		"not this port": {"codex", "", "auth.openai.com", 8443, pool.Route{}, "", "/oauth/token", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := oauthPool(t, c.provider, c.tokenURL)
			r, ok := b.Route(c.host, c.port, []string{"p"})
			if r != c.want || ok != (c.want.Pool != "") {
				t.Errorf("route %+v, %t", r, ok)
			}
			if ok && (!slices.Contains(b.Hosts(), c.host) || !slices.Contains(b.Ports(), c.port)) {
				t.Errorf("hosts %q, ports %d", b.Hosts(), b.Ports())
			}
			if _, ok := b.Route(c.host, c.port, []string{"q"}); ok {
				t.Error("bound for a target of other pools")
			}
			if b.TokenEndpoint(r, c.yes) != (c.yes != "") || b.TokenEndpoint(r, c.no) {
				t.Errorf("%q is an endpoint: %t, %q: %t", c.yes, b.TokenEndpoint(r, c.yes), c.no, b.TokenEndpoint(r, c.no))
			}
			for _, revoke := range []string{"/oauth/revoke", "/revoke"} {
				if b.RevocationEndpoint(r, revoke+"?x=/") != (revoke == c.revoke) || b.TokenEndpoint(r, revoke) {
					t.Errorf("tokens are given up at %s: %t", revoke, b.RevocationEndpoint(r, revoke))
				}
			}
			if b.RevocationEndpoint(r, c.yes) {
				t.Errorf("tokens are given up at %s", c.yes)
			}
		})
	}
}
