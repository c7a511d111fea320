package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much garbage there may be before it is collected, in percent of the memory in use.
// Go's usual share is half of all memory, which thousands of open connections make much
// of; where there are few, collecting oftener would cost processor time and save nothing.
const (
	usualGarbage  = 100
	scarceGarbage = 25
	// From and to these sizes of what is in use, in bytes. The gap keeps it from going to and fro.
	scarceFrom = 48 << 20
	usualTo    = 32 << 20
	weighEvery = 5 * time.Second
)

// keepable is how much may be kept of requests under the memory limit that GOMEMLIMIT sets, which without one is huge:
// a quarter of it, as every body was read through a buffer before, goes out through another one, and garbage is on top.
func keepable(budget, limit int64) int64 { return min(budget, limit/4) }

// keepTidy sets the share by what is in use, until ctx is done.
func keepTidy(ctx context.Context) {
	tick := time.NewTicker(weighEvery)
	defer tick.Stop()
	defer debug.SetGCPercent(debug.SetGCPercent(usualGarbage))
	share := usualGarbage
	inUse := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(inUse)
		if next := garbageShare(share, inUse[0].Value.Uint64()+inUse[1].Value.Uint64()); next != share {
			debug.SetGCPercent(next)
			share = next
		}
	}
}

// garbageShare is the share for so many bytes in use, where it was now before.
func garbageShare(now int, inUse uint64) int {
	switch {
	case inUse >= scarceFrom:
		return scarceGarbage
	case inUse <= usualTo:
		return usualGarbage
	}
	return now
}
