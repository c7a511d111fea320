//go:build !race

package pool_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// What each request asks of a pool costs no memory: the lease of the active member, the
// judgement of a good answer, the route of a connection, that there is nothing to tie, and
// where a stream has its first event.
func TestAllocationsOfARequest(t *testing.T) {
	k := newBench(t, nil)
	r := k.pool(t, "a", "b")
	ctx := context.Background()
	lease, err := k.Acquire(ctx, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := pool.Answer{Status: http.StatusOK}
	const output = "data: {\"delta\":{\"type\":\"text\"}}\n\n"
	stream := []byte("event: response.created\ndata: {\"type\":\"response.created\"}\n\n" + output)
	for name, f := range map[string]func() error{
		"acquire":  func() error { _, err := k.Acquire(ctx, r, nil); return err },
		"observe":  func() error { _, err := k.Observe(ctx, lease, good); return err },
		"route":    func() error { k.Route(r.Host, r.Port, nil); return nil },
		"route to": func() error { k.Route(r.Host, r.Port, []string{r.Pool}); return nil },
		"stream": func() error {
			first := pool.NewFirstEvent("openai")
			for end := range stream {
				first.Came(stream[:end])
			}
			if _, _, refused := pool.RefusedInStream(first.In(stream)); refused || string(first.In(stream)) != output {
				return fmt.Errorf("%t, %q", refused, first.In(stream))
			}
			return nil
		},
	} {
		if n := testing.AllocsPerRun(1000, func() {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// refusals are what providers answer when a limit is reached, and what it may cost to
// understand them: that was measured.
var refusals = map[string]struct {
	answer pool.Answer
	most   float64
}{
	"retry-after": {pool.Answer{Status: 429, Header: http.Header{"Retry-After": {"20"}}}, 6},
	"openai": {pool.Answer{Status: 429, Header: http.Header{
		"X-Ratelimit-Limit-Requests": {"10000"}, "X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Reset-Requests": {"6ms"},
		"X-Ratelimit-Limit-Tokens": {"200000"}, "X-Ratelimit-Remaining-Tokens": {"0"}, "X-Ratelimit-Reset-Tokens": {"1m12s"},
	}, Body: []byte(`{"error":{"message":"Rate limit reached","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`)}, 113},
	"anthropic": {pool.Answer{Status: 429, Header: http.Header{
		"Anthropic-Ratelimit-Requests-Limit": {"50"}, "Anthropic-Ratelimit-Requests-Remaining": {"0"},
		"Anthropic-Ratelimit-Requests-Reset": {"2026-11-27T12:00:30Z"}, "Retry-After": {"30"},
	}, Body: []byte(`{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your limit"}}`)}, 93},
	"good": {pool.Answer{Status: 200}, 0},
}

func TestAllocationsOfAHint(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for name, c := range refusals {
		if n := testing.AllocsPerRun(1000, func() { pool.Classify(c.answer, now) }); n > c.most {
			t.Errorf("%s: %v allocations, were %v", name, n, c.most)
		}
	}
}
