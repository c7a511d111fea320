package api

import (
	"net/netip"
	"time"
)

const (
	// maxTries wrong tokens may come from an address within triesWindow.
	maxTries    = 10
	triesWindow = time.Minute
	// maxTriers bounds what is remembered; further addresses share one count.
	maxTriers = 4096
)

// tries counts wrong tokens by where they come from. The zero value has counted
// none. It is not safe for concurrent use.
type tries struct {
	by    map[netip.Addr]*tried
	swept time.Time
}

type tried struct {
	since time.Time
	n     int
}

// source is the address that counts: of an IPv6 host, which has as many as it
// likes, its network.
func source(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if network, err := a.Prefix(64); err == nil {
			return network.Addr()
		}
	}
	return a
}

// wait is how long nothing is accepted from an address; zero if it is.
func (t *tries) wait(a netip.Addr, now time.Time) time.Duration {
	seen := t.of(source(a))
	if seen == nil || seen.n < maxTries {
		return 0
	}
	return max(0, seen.since.Add(triesWindow).Sub(now))
}

func (t *tries) of(a netip.Addr) *tried {
	if seen := t.by[a]; seen != nil {
		return seen
	}
	if len(t.by) >= maxTriers {
		return t.by[netip.Addr{}]
	}
	return nil
}

// wrong counts a wrong token. It is worth a line in the log when it is the first of
// its window and when it is the one that closes the door.
func (t *tries) wrong(a netip.Addr, now time.Time) (worthTelling bool) {
	a = source(a)
	if t.by == nil {
		t.by = make(map[netip.Addr]*tried)
	}
	if len(t.by) >= maxTriers && now.Sub(t.swept) >= triesWindow/10 {
		t.swept = now
		for other, seen := range t.by {
			if now.Sub(seen.since) >= triesWindow {
				delete(t.by, other)
			}
		}
	}
	seen := t.of(a)
	if seen == nil {
		if len(t.by) >= maxTriers {
			a = netip.Addr{}
		}
		seen = &tried{since: now}
		t.by[a] = seen
	}
	if now.Sub(seen.since) >= triesWindow {
		*seen = tried{since: now}
	}
	seen.n++
	return seen.n == 1 || seen.n == maxTries
}
