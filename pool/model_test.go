package pool_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-proxy/sluice/pool"
)

// TestModel drives the keeper with random requests, answers, time, restarts and
// edits, and holds it to a model in plain words: a request never gets a member
// that is out, and is never refused while one is not; edges alternate.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(t, nil)
		defer b.stop() // a hundred open stores are slow
		names := []string{"a", "b", "c"}
		r := b.pool(t, names...)
		out := map[string]time.Time{}
		isOut := func(m string) bool { return b.clock().Before(out[m]) }
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"request", "request", "request", "pass", "restart", "rotate", "clear"}).Draw(rt, "step") {
			case "request":
				l, err := b.Acquire(t.Context(), r, nil)
				left := 0
				for _, n := range names {
					if !isOut(n) {
						left++
					}
				}
				var e *pool.ExhaustedError
				if errors.As(err, &e) {
					if left > 0 {
						rt.Fatalf("refused while %d members are left", left)
					}
					continue
				}
				if err != nil || isOut(l.Member) {
					rt.Fatalf("leased %q, which is out (%v)", l.Member, err)
				}
				if rapid.Bool().Draw(rt, "refused") {
					wait := rapid.IntRange(10, 300).Draw(rt, "wait")
					b.answer(t, l, 429, fmt.Sprint(wait))
					out[l.Member] = b.clock().Add(time.Duration(wait) * time.Second)
				} else {
					b.answer(t, l, 200, "")
				}
			case "pass":
				b.pass(time.Duration(rapid.IntRange(1, 200).Draw(rt, "seconds")) * time.Second)
				if _, err := b.Recover(t.Context()); err != nil {
					rt.Fatal(err)
				}
			case "restart":
				b.restart(t)
			case "rotate":
				before := b.status(t).Active
				if b.Rotate(t.Context(), "p") == nil && b.status(t).Active == before {
					rt.Fatalf("rotate stayed with %q and said nothing", before)
				}
			case "clear":
				n := rapid.SampledFrom(names).Draw(rt, "member")
				if err := b.Clear(t.Context(), "p", n); err != nil {
					rt.Fatal(err)
				}
				delete(out, n)
			}
			s := b.status(t)
			for _, m := range s.Members {
				if (m.State == pool.MemberCooldown) != isOut(m.Name) {
					rt.Fatalf("status says %s is %s", m.Name, m.State)
				}
			}
			if l, err := b.Acquire(t.Context(), r, nil); err == nil && l.Member != s.Active {
				rt.Fatalf("status says %q is active, the next request gets %q", s.Active, l.Member)
			}
		}
		checkEdges(t, rt, b)
	})
}

func checkEdges(t *testing.T, rt *rapid.T, b *bench) {
	events, err := b.LastEvents(t.Context(), 10000)
	if err != nil {
		rt.Fatal(err)
	}
	exhausted := false
	for _, e := range events {
		switch e.Kind {
		case pool.EventExhausted:
			if exhausted {
				rt.Fatalf("exhausted twice without a recovery: %+v", events)
			}
			exhausted = true
		case pool.EventRecovered:
			if !exhausted {
				rt.Fatalf("recovered without an exhaustion: %+v", events)
			}
			exhausted = false
		}
	}
}
