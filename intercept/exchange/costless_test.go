package exchange

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// asked is a pool that keeps with what it was asked for a member the last time, and what it judged.
type asked struct {
	still
	route  atomic.Pointer[pool.Route]
	answer atomic.Pointer[pool.Answer]
}

func (a *asked) Observe(ctx context.Context, l pool.Lease, answer pool.Answer) (pool.Outcome, error) {
	a.answer.Store(&answer)
	return a.still.Observe(ctx, l, answer)
}

func (a *asked) Acquire(ctx context.Context, r pool.Route, tried []string) (pool.Lease, error) {
	a.route.Store(&r)
	return a.still.Acquire(ctx, r, tried)
}

// A member is asked for, and judged, with what the request could find out of it.
func TestAMemberIsAskedForWithWhatARequestCosts(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		pools := &asked{still: still{pool.Lease{Pool: "p", Member: "a"}}}
		b := newBench(t, setup{
			route:   &pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: "anthropic"},
			change:  func(o *Options) { o.Pools = pools },
			protos:  protos,
			handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		})
		client := b.client(h2)
		for _, c := range []struct {
			method, path string
			costless     bool
		}{
			{"GET", "/v1/models", true},
			{"POST", "/v1/messages/count_tokens?beta=true", true},
			{"POST", "/v1/messages?beta=true", false},
		} {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+testHost+c.path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := pools.route.Load(); got.Costless != c.costless || pools.answer.Load().Costless != c.costless {
				t.Errorf("%s %s: %+v, %+v", c.method, c.path, got, pools.answer.Load())
			}
		}
	})
}
