package exchange

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// insecure asks token endpoints whose certificate is a test's own.
func insecure() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
}

// newKeeper is a pool "p" of a and b, two keys unless they are given, on a store in a directory of the test's own.
func newKeeper(t *testing.T, creds ...pool.CredentialSpec) (*pool.Keeper, pool.Route) {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	db, err := store.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	v, err := vault.Open(vault.Options{File: filepath.Join(dir, "identity")})
	if err != nil {
		t.Fatal(err)
	}
	k, err := pool.NewKeeper(ctx, pool.Options{
		Store: db, Vault: v, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), HTTP: insecure(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	if creds == nil {
		for _, name := range []string{"a", "b"} {
			creds = append(creds, pool.CredentialSpec{Name: name, Secret: vault.NewSecret([]byte(secretOf(name)))})
		}
	}
	for _, spec := range creds {
		if _, err := k.AddCredential(ctx, spec); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.CreatePool(ctx, pool.Pool{
		Name: "p", Members: []string{"a", "b"}, Provider: "openai",
		Bindings: []pool.Binding{{Host: testHost, Port: 443, Header: "Authorization: Bearer {token}"}},
	}); err != nil {
		t.Fatal(err)
	}
	r, ok := k.Route(testHost, 443, nil)
	if !ok {
		t.Fatal("the host is not bound")
	}
	return k, r
}

// newAccountKeeper is such a pool, in which a is an account whose access token "real-a-0" is replaced by "real-a-1".
func newAccountKeeper(t *testing.T) (*pool.Keeper, pool.Route) {
	t.Helper()
	endpoint := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"real-a-1","refresh_token":"rt-1","expires_in":3600}`)
	}))
	t.Cleanup(endpoint.Close)
	return newKeeper(t, pool.CredentialSpec{
		Name: "a", Type: pool.OAuth, TokenURL: endpoint.URL,
		OAuth: &pool.OAuthTokens{
			AccessToken: vault.NewSecret([]byte("real-a-0")), RefreshToken: vault.NewSecret([]byte("rt-0")), ExpiresAt: time.Now().Add(time.Hour),
		},
	}, pool.CredentialSpec{Name: "b", Secret: vault.NewSecret([]byte(secretOf("b")))})
}

// TestWithTheRealPool: one member is refused, the next one serves; when that is
// refused too, the pool's own answer comes and nothing goes upstream any more.
func TestWithTheRealPool(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		k, route := newKeeper(t)
		var mu sync.Mutex
		var asked []string
		refused := map[string]bool{"a": true}
		b := newBench(t, setup{
			protos: protos, route: &route, change: func(o *Options) { o.Pools = k },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, member(r))
				body, _ := io.ReadAll(r.Body)
				if refused[member(r)] {
					w.Header().Set("Retry-After", "120")
					w.WriteHeader(429)
					fmt.Fprint(w, `{"error":{"code":"rate_limit_exceeded"}}`)
					return
				}
				fmt.Fprintf(w, "%s by %s", body, member(r))
			}),
		})
		c := b.client(h2)
		post := func() (*http.Response, string) {
			r := newRequest("POST", strings.NewReader("hello"))
			r.Header.Set("Authorization", "Bearer placeholder")
			return ask(t, c, r)
		}
		for range 2 {
			if resp, body := post(); resp.StatusCode != 200 || body != "hello by b" {
				t.Fatalf("got %d %q", resp.StatusCode, body)
			}
		}
		if told, err := k.RequestReset(t.Context(), "p", 1, true); err != nil || told {
			t.Errorf("the agent was told nothing, but may be reset: %t, %v", told, err)
		}
		mu.Lock()
		refused["b"] = true
		mu.Unlock()
		for range 2 {
			resp, body := post()
			wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
			if resp.StatusCode != 429 || resp.Header.Get("Sluice-Pool") != "p" || wait < 1 || wait > 120 ||
				resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("exhausted: %d %v", resp.StatusCode, resp.Header)
			}
			var said struct {
				Error struct{ Message, Type string }
			}
			if err := json.Unmarshal([]byte(body), &said); err != nil || said.Error.Message == "" || said.Error.Type == "" {
				t.Errorf("exhausted: not the provider's shape: %q, %v", body, err)
			}
		}
		if told, err := k.RequestReset(t.Context(), "p", 1, true); err != nil || !told {
			t.Errorf("the agent was told, but is not to be reset: %t, %v", told, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if want := []string{"a", "b", "b", "b"}; !slices.Equal(asked, want) {
			t.Errorf("upstream was asked by %q, want %q", asked, want)
		}
	})
}
