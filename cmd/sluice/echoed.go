package main

import (
	"log/slog"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/intercept/exchange"
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

func (e *echoes) seen(x exchange.Echoed) {
	now := time.Now()
	e.mu.Lock()
	last, before := e.said[x.Member]
	again := before && now.Sub(last) < echoPause
	if !again {
		if e.said == nil {
			e.said = make(map[string]time.Time)
		}
		e.said[x.Member] = now
	}
	e.mu.Unlock()
	if again {
		return
	}
	detail := "the agent got a placeholder in its place"
	if x.Cut {
		detail = "the answer was compressed and was cut off"
	}
	e.log.Warn("an upstream repeats a secret", "pool", x.Pool, "member", x.Member, "host", x.Host, "cut", x.Cut)
	e.note(pool.Event{Kind: pool.EventEchoed, Pool: x.Pool, Member: x.Member, Reason: x.Host + " repeats the secret in its answers", Detail: detail})
}
