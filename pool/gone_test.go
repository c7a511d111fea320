package pool_test

import (
	"context"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// An answer counts although the agent that waited for it has gone, and though nothing of its member is in memory yet.
func TestAnswersCountForWhoHasGone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		want   pool.MemberState
	}{
		"refused": {429, pool.MemberCooldown},
		"good":    {200, pool.MemberActive},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			r := b.pool(t, "a")
			l := b.acquire(t, r)
			if c.status == 200 {
				b.answer(t, l, 429, "3600")
				b.pass(1)
				l.Sent = b.clock()
			}
			b.restart(t)
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := b.Observe(gone, l, pool.Answer{Status: c.status, At: b.clock()}); err != nil {
				t.Fatal(err)
			}
			if got := b.status(t).Members[0].State; got != c.want {
				t.Errorf("the member is %s, want %s", got, c.want)
			}
		})
	}
}
