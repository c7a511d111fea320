package exchange

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// TestA401OfAnAccountIsRefreshed: the agent of an account whose access token was revoked
// sees the answer to the same request with a new one, and if that is not accepted either,
// the next member's.
func TestA401OfAnAccountIsRefreshed(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		var mu sync.Mutex
		var asked, redeemed []string
		good := "a-1"
		endpoint := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			redeemed = append(redeemed, r.PostFormValue("refresh_token"))
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":"real-a-%d","refresh_token":"rt-%d","expires_in":3600}`, len(redeemed), len(redeemed))
		}))
		defer endpoint.Close()
		k, route := newKeeper(
			t, pool.CredentialSpec{
				Name: "a", Type: pool.OAuth, TokenURL: endpoint.URL,
				OAuth: &pool.OAuthTokens{
					AccessToken: vault.NewSecret([]byte("real-a-0")), RefreshToken: vault.NewSecret([]byte("rt-0")), ExpiresAt: time.Now().Add(time.Hour),
				},
				ExtraHeaders: []pool.ExtraHeader{{Name: "chatgpt-account-id", Value: vault.NewSecret([]byte("account-a"))}},
			},
			pool.CredentialSpec{Name: "b", Secret: vault.NewSecret([]byte(secretOf("b")))},
		)
		b := newBench(t, setup{
			protos: protos, route: &route, change: func(o *Options) { o.Pools = k },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				mu.Lock()
				defer mu.Unlock()
				who := member(r)
				asked = append(asked, who)
				if id := r.Header.Get("Chatgpt-Account-Id"); (id == "account-a") != strings.HasPrefix(who, "a-") {
					t.Errorf("%s was sent with the account %q", who, id)
				}
				if who != good && who != "b" {
					w.WriteHeader(401)
					return
				}
				fmt.Fprintf(w, "%d by %s", len(body), who)
			}),
		})
		c := b.client(h2)
		post := func(n int64) string {
			r := newRequest("POST", io.LimitReader(endless{}, n))
			resp, body := ask(t, c, r)
			return fmt.Sprint(resp.StatusCode, " ", body)
		}
		took := func() []string {
			mu.Lock()
			defer mu.Unlock()
			got := asked
			asked = nil
			return got
		}
		if got := post(300 << 10); got != fmt.Sprint("200 ", 300<<10, " by a-1") {
			t.Error(got)
		}
		if got := took(); !slices.Equal(got, []string{"a-0", "a-1"}) {
			t.Errorf("asked with %q", got)
		}
		if got := post(10); got != "200 10 by a-1" {
			t.Error(got)
		}
		took()
		mu.Lock()
		good = "none"
		mu.Unlock()
		if got := post(10); got != "200 10 by b" { // a is given up after one refresh
			t.Error(got)
		}
		if got := took(); !slices.Equal(got, []string{"a-1", "a-2", "b"}) {
			t.Errorf("asked with %q", got)
		}
		if s, err := k.PoolStatus(t.Context(), "p"); err != nil || s.Active != "b" || s.Members[0].State != pool.MemberCooldown {
			t.Errorf("%+v, %v", s, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(redeemed, []string{"rt-0", "rt-1"}) {
			t.Errorf("redeemed %q", redeemed)
		}
	})
}

// TestAKeyThatIsReplacedUnderARequest: its 401 is for the key that was, so the request goes out again with the one that is.
func TestAKeyThatIsReplacedUnderARequest(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		k, route := newKeeper(t)
		b := newBench(t, setup{
			protos: protos, route: &route, change: func(o *Options) { o.Pools = k },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if member(r) == "a" {
					other := vault.NewSecret([]byte("real-other"))
					if _, err := k.UpdateCredential(r.Context(), "a", pool.CredentialChange{Secret: &other}); err != nil {
						t.Error(err)
					}
					w.WriteHeader(401)
				}
				fmt.Fprintf(w, "%s by %s", body, member(r))
			}),
		})
		if resp, body := ask(t, b.client(h2), newRequest("POST", strings.NewReader("hello"))); resp.StatusCode != 200 || body != "hello by other" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
		if s, err := k.PoolStatus(t.Context(), "p"); err != nil || s.Active != "a" || s.State != pool.StateHealthy {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// TestEachMemberIsRefreshed: a login that is dead takes nothing from the next member, whose access token has ended as well.
func TestEachMemberIsRefreshed(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		endpoint := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if r.PostFormValue("refresh_token") != "rt-b" {
				w.WriteHeader(400)
				_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
				return
			}
			_, _ = io.WriteString(w, `{"access_token":"real-b-1","refresh_token":"rt-b-1","expires_in":3600}`)
		}))
		defer endpoint.Close()
		account := func(name string) pool.CredentialSpec {
			return pool.CredentialSpec{
				Name: name, Type: pool.OAuth, TokenURL: endpoint.URL,
				OAuth: &pool.OAuthTokens{
					AccessToken: vault.NewSecret([]byte("real-" + name + "-0")), RefreshToken: vault.NewSecret([]byte("rt-" + name)),
					ExpiresAt: time.Now().Add(time.Hour),
				},
			}
		}
		k, route := newKeeper(t, account("a"), account("b"))
		b := newBench(t, setup{
			protos: protos, route: &route, change: func(o *Options) { o.Pools = k },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(member(r), "-0") {
					w.WriteHeader(401)
				}
				_, _ = io.WriteString(w, member(r))
			}),
		})
		if resp, body := ask(t, b.client(h2), newRequest("POST", strings.NewReader("{}"))); resp.StatusCode != 200 || body != "b-1" {
			t.Errorf("the agent got %d by %q, want 200 by b-1", resp.StatusCode, body)
		}
		s, err := k.PoolStatus(t.Context(), "p")
		if err != nil || s.State != pool.StateDegraded || s.Active != "b" {
			t.Errorf("the pool is %s with %s, %v", s.State, s.Active, err)
		}
	})
}
