package main

import (
	"log/slog"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// echoPause is how long nothing more is said of a member whose secret is repeated: an
// upstream that does it once does it with every answer.
const echoPause = time.Hour

// echoes writes down that upstreams repeat secrets.
type echoes struct {
	note func(pool.Event)
	log  *slog.Logger

	mu   sync.Mutex
	said map[string]time.Time // by member
}

// seen is told of an answer by host that repeated a member's secret; cut says that it was
// cut off.
func (e *echoes) seen(poolName, member, host string, cut bool) {
	now := time.Now()
	e.mu.Lock()
	last, before := e.said[member]
	again := before && now.Sub(last) < echoPause
	if !again {
		if e.said == nil {
			e.said = make(map[string]time.Time)
		}
		e.said[member] = now
	}
	e.mu.Unlock()
	if again {
		return
	}
	detail := "the agent got a placeholder in its place"
	if cut {
		detail = "the answer was compressed and was cut off"
	}
	e.log.Warn("an upstream repeats a secret", "pool", poolName, "member", member, "host", host, "cut", cut)
	e.note(pool.Event{Kind: pool.EventEchoed, Pool: poolName, Member: member, Reason: host + " repeats the secret in its answers", Detail: detail})
}
