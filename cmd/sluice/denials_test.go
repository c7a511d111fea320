package main

import (
	"testing"
	"time"
)

func TestDenials(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var d denials
	count := func(pool string, n int, at time.Time) (told, untold int) {
		for range n {
			is, more := d.next(pool, at)
			if untold += more; is {
				told++
			}
		}
		return told, untold
	}
	for _, c := range []struct {
		pool              string
		n                 int
		after             time.Duration
		wantTold, wantNot int
	}{
		{"one", 3, 0, 3, 0},
		{"one", 100, time.Second, denialsTold - 3, 0},
		{"other", 1, time.Second, 1, 0}, // has its own
		{"one", 5, denialsWindow, 5, 100 - (denialsTold - 3)},
		{"one", 1, denialsWindow, 1, 0},
		{"one", 1, 3 * denialsWindow, 1, 0},
	} {
		if told, untold := count(c.pool, c.n, now.Add(c.after)); told != c.wantTold || untold != c.wantNot {
			t.Errorf("%s after %s: %d told, %d not; want %d, %d", c.pool, c.after, told, untold, c.wantTold, c.wantNot)
		}
	}
}
