package exchange

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// A display of usage that is refused to one member is asked with the next one, once each. If it is
// refused to all, the agent gets the upstream's own answer. No member is out for that.
func TestWhatIsAskedAside(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status  int
		refused string // to these members
		want    int
		asked   string
	}{
		"refused to one":        {429, "a", 200, "a b"},
		"not permitted to one":  {401, "a", 200, "a b"},
		"refused to all":        {429, "ab", 429, "a b"},
		"there is no such page": {404, "ab", 404, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				k, route := newKeeper(t)
				route.Provider = "anthropic"
				var mu sync.Mutex
				var asked []string
				b := newBench(t, setup{
					route: &route, protos: protos, change: func(o *Options) { o.Pools = k },
					handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						mu.Lock()
						defer mu.Unlock()
						asked = append(asked, member(r))
						if strings.Contains(c.refused, member(r)) {
							w.Header().Set("Retry-After", "0")
							w.WriteHeader(c.status)
						}
						_, _ = io.WriteString(w, "from upstream")
					}),
				})
				r := newRequest("GET", nil)
				r.URL.Path = "/api/oauth/usage"
				resp, body := ask(t, b.client(h2), r)
				if resp.StatusCode != c.want || body != "from upstream" || resp.Header.Get("Sluice-Pool") != "" {
					t.Errorf("the agent got %d, %q", resp.StatusCode, body)
				}
				mu.Lock()
				defer mu.Unlock()
				if got := strings.Join(asked, " "); got != c.asked {
					t.Errorf("%q were asked, want %q", got, c.asked)
				}
				s, err := k.PoolStatus(t.Context(), "p")
				if err != nil || s.State != pool.StateHealthy || s.Active != "a" {
					t.Errorf("the pool is %s with %s, %v", s.State, s.Active, err)
				}
			})
		})
	}
}

// How an account stands is said by one that is used up, too, and nothing changes by that; what an agent reports is not
// passed on, nor is anything with a credential that is not accepted.
func TestHowAnAccountStandsWhileAllAreOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method, path string
		refused      int // both members, with this
		want         int
	}{
		"usage":               {"GET", "/api/oauth/usage", 429, 200},
		"reports":             {"POST", "/api/event_logging/batch", 429, 429},
		"rejected":            {"GET", "/api/oauth/usage", 401, 429},
		"models all the same": {"GET", "/v1/models", 429, 429},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				k, route := newKeeper(t)
				route.Provider = "anthropic"
				b := newBench(t, setup{
					route: &route, protos: protos, change: func(o *Options) { o.Pools = k },
					handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == "/v1/messages" {
							w.WriteHeader(c.refused)
						}
						_, _ = io.WriteString(w, member(r))
					}),
				})
				out := newRequest("POST", strings.NewReader("{}"))
				out.URL.Path = "/v1/messages"
				ask(t, b.client(h2), out)
				r := newRequest(c.method, nil)
				r.URL.Path = c.path
				resp, body := ask(t, b.client(h2), r)
				if answered := body == "a" || body == "b"; resp.StatusCode != c.want || answered != (c.want == 200) {
					t.Errorf("the agent got %d, %q", resp.StatusCode, body)
				}
				if s, err := k.PoolStatus(t.Context(), "p"); err != nil || s.State != pool.StateExhausted {
					t.Errorf("the pool is %s, %v", s.State, err)
				}
			})
		})
	}
}

// An access token that has ended is replaced for what is asked aside, too: Codex begins with it.
func TestA401AsideIsRefreshed(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		k, route := newAccountKeeper(t)
		route.Provider = "codex"
		b := newBench(t, setup{
			route: &route, protos: protos, change: func(o *Options) { o.Pools = k },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if member(r) == "a-0" {
					w.WriteHeader(401)
				}
				_, _ = io.WriteString(w, member(r))
			}),
		})
		r := newRequest("GET", nil)
		r.URL.Path = "/backend-api/wham/accounts/check"
		if resp, body := ask(t, b.client(h2), r); resp.StatusCode != 200 || body != "a-1" {
			t.Errorf("the agent got %d by %s, want 200 by a-1", resp.StatusCode, body)
		}
	})
}

// What nobody was judged by is nothing to be held for: whoever is back then has refused it already.
func TestWhatIsAskedAsideIsNotHeld(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		pools := newMembers("a", "b")
		pools.hold = func(context.Context) bool { return true }
		b := newBench(t, setup{
			pools: pools, protos: protos, route: &pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: "anthropic"},
			handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }),
		})
		r := newRequest("GET", nil)
		r.URL.Path = "/api/oauth/usage"
		if resp, _ := ask(t, b.client(h2), r); resp.StatusCode != http.StatusUnauthorized || pools.holds != 0 {
			t.Errorf("status %d after %d holds", resp.StatusCode, pools.holds)
		}
	})
}
