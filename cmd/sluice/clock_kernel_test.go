package main

import (
	"strings"
	"testing"
	"time"
)

// TestAClockThatIsSetBetweenTwoStarts: a daemon finds the wall clock an hour ahead of
// where it should be, then where it was. Only the difference to the clock that counts
// since the boot tells, so that one is moved, in a time namespace, the other way. The pool
// stays out for as long as the upstream said, and nothing is announced twice.
func TestAClockThatIsSetBetweenTwoStarts(t *testing.T) {
	t.Parallel()
	needs(t, "unshare")
	h := newHouse(t, nil)
	// That clock cannot be set to before the boot, which may have been a minute ago: so it is ahead where all is well.
	well := []string{"unshare", "--time", "--boottime", "3600"}
	h.daemon.kill()
	h.start(well...)
	const out = 15 * time.Second
	for _, name := range []string{"first", "second"} {
		if err := h.sim.Spend(name, out); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	asks := func(want string) {
		t.Helper()
		if got := h.chat("-d", chatBody); !strings.Contains(got, "\n"+want+" ") {
			t.Errorf("want %s: %s", want, got)
		}
	}
	asks("429")
	before := h.sim.Journal().Last()

	h.daemon.kill()
	h.start()
	if got := h.sluice("", "pool", "status", "openai"); !strings.Contains(got, "1h") || !strings.Contains(got, "exhausted") {
		t.Errorf("an hour ahead: %s", got)
	}
	asks("429")
	h.daemon.kill()
	h.start(well...)
	if got := h.sluice("", "pool", "status", "openai"); strings.Contains(got, "1h") || !strings.Contains(got, "exhausted") {
		t.Errorf("set back: %s", got)
	}
	asks("429")
	h.seen(before, 0)

	for deadline := began.Add(out + 10*time.Second); !strings.Contains(h.sluice("", "pool", "status", "openai"), "healthy"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("has not recovered")
		}
	}
	if early := out - time.Since(began); early > time.Second {
		t.Errorf("recovered %s too early", early)
	}
	asks("200")
	events := h.sluice("", "events")
	for _, kind := range []string{"pool_exhausted", "pool_recovered"} {
		if n := strings.Count(events, kind); n != 1 {
			t.Errorf("%s is in the log %d times: %s", kind, n, events)
		}
	}
}
