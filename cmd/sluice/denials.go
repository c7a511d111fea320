package main

import (
	"sync"
	"time"
)

// So many denials of a pool are written down in that time. An agent can have any number of requests refused, and each would be a row of
// the event log, which keeps the newest of all, and a line of the audit log, which keeps every one.
const (
	denialsTold   = 10
	denialsWindow = time.Minute
)

// denials tells which are written down. Its zero value is ready.
type denials struct {
	mu sync.Mutex
	by map[string]*denial // by pool
}

type denial struct {
	since        time.Time
	told, untold int
}

// next says whether a pool's denial is written down, and how many were not since the one before that was.
func (d *denials) next(pool string, now time.Time) (told bool, untold int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = make(map[string]*denial)
	}
	n := d.by[pool]
	if n == nil {
		n = new(denial)
		d.by[pool] = n
	}
	if now.Sub(n.since) >= denialsWindow {
		n.since, n.told = now, 0
	}
	if n.told == denialsTold {
		n.untold++
		return false, 0
	}
	n.told++
	untold, n.untold = n.untold, 0
	return true, untold
}
