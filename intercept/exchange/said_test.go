package exchange

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// What an answer says of the account counts, whatever its status: the next member is asked. What it says of the request, if
// all say it, is for the agent, and nobody is out for it.
func TestWhatIsSaidOfTheAccount(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status  int
		message string
		refused string // to these members
		want    int
		asked   string
		active  string
	}{
		"no credit":                {400, "Your credit balance is too low to access the Anthropic API.", "a", 200, "a b", "b"},
		"a revoked token":          {403, "OAuth token has been revoked. Please obtain a new token.", "a", 200, "a b", "b"},
		"a bad request":            {400, "messages: at least one message is required", "ab", 400, "a", "a"},
		"a context that one has":   {429, "Extra usage is required for long context requests.", "a", 200, "a b", "a"},
		"no quota, with a 404":     {404, `","code":"insufficient_quota`, "a", 200, "a b", "b"},
		"a model that none have":   {404, `","code":"model_not_found`, "ab", 404, "a", "a"},
		"a context that none have": {429, "Extra usage is required for long context requests.", "ab", 429, "a b", "a"},
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
							w.WriteHeader(c.status)
							_, _ = io.WriteString(w, `{"type":"error","error":{"type":"some_error","message":"`+c.message+`"}}`)
							return
						}
						_, _ = io.WriteString(w, "good")
					}),
				})
				r := newRequest("POST", nil)
				r.URL.Path = "/v1/messages"
				resp, body := ask(t, b.client(h2), r)
				if resp.StatusCode != c.want || resp.Header.Get("Sluice-Pool") != "" || (body == "good") != (c.want == 200) {
					t.Errorf("the agent got %d, %q", resp.StatusCode, body)
				}
				mu.Lock()
				defer mu.Unlock()
				if got := strings.Join(asked, " "); got != c.asked {
					t.Errorf("%q were asked, want %q", got, c.asked)
				}
				s, err := k.PoolStatus(t.Context(), "p")
				if err != nil || s.Active != c.active || (s.State == pool.StateHealthy) != (c.active == "a") {
					t.Errorf("the pool is %s with %s, %v", s.State, s.Active, err)
				}
			})
		})
	}
}

// A token that Anthropic has revoked is replaced as one that has ended is.
func TestARevokedTokenIsRefreshed(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		k, route := newAccountKeeper(t)
		route.Provider = "anthropic"
		b := newBench(t, setup{
			route: &route, protos: protos, change: func(o *Options) { o.Pools = k },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if member(r) == "a-0" {
					w.WriteHeader(403)
					_, _ = io.WriteString(w, `{"type":"error","error":{"type":"permission_error","message":"OAuth token has been revoked."}}`)
					return
				}
				_, _ = io.WriteString(w, member(r))
			}),
		})
		if resp, body := ask(t, b.client(h2), newRequest("POST", nil)); resp.StatusCode != 200 || body != "a-1" {
			t.Errorf("the agent got %d by %s, want 200 by a-1", resp.StatusCode, body)
		}
	})
}
