package notice

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// TestSentences pins what people and scripts rely on.
func TestSentences(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		event pool.Event
		want  string
	}{
		{
			pool.Event{Kind: pool.EventFailover, Pool: "p", Member: "a", To: "b", Reason: "rate limit (429)", Time: at, Until: at.Add(2*time.Hour + 14*time.Minute)},
			`Pool "p" failed over from "a" to "b" after rate limit (429); "a" is back in 2h14m.`,
		},
		{
			pool.Event{Kind: pool.EventExhausted, Pool: "p", Member: "b", Members: 2, Time: at, Until: at.Add(41 * time.Minute)},
			`Pool "p" exhausted: all 2 members are cooling down; "b" recovers first, in 41m.`,
		},
		{
			pool.Event{Kind: pool.EventExhausted, Pool: "p", Member: "b", Members: 1, Time: at, Until: at.Add(41 * time.Minute)},
			`Pool "p" exhausted: its only member is cooling down; "b" is back in 41m.`,
		},
		{pool.Event{Kind: pool.EventExhausted, Pool: "p", Member: "b", Members: 1, Time: at}, `Pool "p" exhausted: its only member is cooling down.`},
		{
			pool.Event{Kind: pool.EventRecovered, Pool: "p", Member: "b", Time: at, Since: at.Add(-41 * time.Minute)},
			`Pool "p" recovered: "b" is available again after 41m.`,
		},
		{
			pool.Event{Kind: pool.EventRecovered, Pool: "p", Member: "b", Time: at},
			`Pool "p" recovered: "b" is available again.`,
		},
		{pool.Event{Kind: pool.EventAuthResetFail, Pool: "p", Reason: "there is no agent"}, `Pool "p": agent auth reset failed: there is no agent.`},
		{pool.Event{Kind: pool.EventAuthReset, Pool: "p", Target: "hermes-1"}, `Pool "p": agent auth reset in hermes-1 succeeded.`},
		{
			pool.Event{Kind: pool.EventAuthResetFail, Pool: "p", Target: "hermes-1", Reason: "exit status 3:\n unknown provider."},
			`Pool "p": agent auth reset in hermes-1 failed: exit status 3: unknown provider.`,
		},
		{
			pool.Event{Kind: pool.EventRefreshFailed, Pool: "p", Member: "a", Reason: "invalid_grant"},
			`Pool "p": the login of "a" cannot be renewed (invalid_grant): sign in again and run 'sluice cred update a'.`,
		},
		{
			pool.Event{Kind: pool.EventRefreshFailed, Member: "a", Reason: "invalid_grant"},
			`The login of "a" cannot be renewed (invalid_grant): sign in again and run 'sluice cred update a'.`,
		},
		{
			pool.Event{Kind: pool.EventFetchFailed, Pool: "p", Member: "a", Reason: "source file:/a: there is no such file: put it there"},
			`Pool "p": the secret of "a" cannot be read again, and what was read last is used: source file:/a: there is no such file: put it there.`,
		},
	} {
		n, ok := Of(c.event)
		if !ok || n.Text != c.want {
			t.Errorf("%s: %q, want %q", c.event.Kind, n.Text, c.want)
		}
		if strings.Contains(n.Text, "\n") {
			t.Errorf("%s: more than one line", c.event.Kind)
		}
	}
	for _, kind := range []pool.EventKind{pool.EventTargetAttached, pool.EventTargetDetached, pool.EventDenied, pool.EventRefresh, pool.EventFetched} {
		if n, ok := Of(pool.Event{Kind: kind}); ok {
			t.Errorf("%s is announced: %q", kind, n.Text)
		}
	}
}
