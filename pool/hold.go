package pool

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// MaxHold is the longest that a pool may hold requests: agents and what lies between
	// give up on a connection that is silent for longer.
	MaxHold = 10 * time.Minute
	// DefaultMaxHeld is how many requests a pool holds at most.
	DefaultMaxHeld = 256
)

// line is where the held requests of one pool wait, in the order in which they came.
type line struct {
	mu    sync.Mutex
	queue []*ticket
}

// ticket is a place in a line; turn is closed when it is the first.
type ticket struct{ turn chan struct{} }

// join is nil if the line is full.
func (l *line) join(limit int) *ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= limit {
		return nil
	}
	t := &ticket{turn: make(chan struct{})}
	l.queue = append(l.queue, t)
	if len(l.queue) == 1 {
		close(t.turn)
	}
	return t
}

// leave gives the turn on, if it was this ticket's.
func (l *line) leave(t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.queue, t)
	l.queue = slices.Delete(l.queue, i, i+1)
	if i == 0 && len(l.queue) > 0 {
		close(l.queue[0].turn)
	}
}

func (l *line) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

// Hold keeps a request that found every member out until one is back, if its pool
// holds requests and the soonest is back soon enough. It says whether the request
// is to be leased a member again; if not, it is answered. Held requests are let go
// in the order in which they came, and a request whose ctx ends gives up its place. One
// that is tied to a member waits for that one, and so in no order with the others; the
// zero Tie is none.
func (k *Keeper) Hold(ctx context.Context, r Route, tie Tie) bool {
	if tie.member != 0 {
		return k.holdTied(ctx, r, tie)
	}
	p := k.view.pool(r.Pool)
	if p == nil || p.pool.Hold <= 0 {
		return false
	}
	deadline := k.opts.Now().Add(p.pool.Hold)
	if _, ok := k.backBy(ctx, r.Pool, 0, deadline); !ok {
		return false
	}
	t := p.line.join(k.opts.MaxHeld)
	if t == nil {
		return false
	}
	defer p.line.leave(t)
	limit := time.NewTimer(p.pool.Hold)
	defer limit.Stop()
	select {
	case <-t.turn:
	case <-ctx.Done():
		return false
	case <-limit.C:
		return false
	}
	return k.await(ctx, r.Pool, 0, deadline, limit.C)
}

func (k *Keeper) holdTied(ctx context.Context, r Route, t Tie) bool {
	p := k.view.pool(r.Pool)
	if p == nil || p.pool.Hold <= 0 {
		return false
	}
	deadline := k.opts.Now().Add(p.pool.Hold)
	if _, ok := k.backBy(ctx, r.Pool, t.member, deadline); !ok {
		return false
	}
	place := p.tied.join(k.opts.MaxHeld)
	if place == nil {
		return false
	}
	defer p.tied.leave(place)
	limit := time.NewTimer(p.pool.Hold)
	defer limit.Stop()
	return k.await(ctx, r.Pool, t.member, deadline, limit.C)
}

// await waits until a pool has a member, or the one that is named, again.
func (k *Keeper) await(ctx context.Context, name string, member int64, deadline time.Time, limit <-chan time.Time) bool {
	for {
		changed := k.waiting.wait()
		wait, ok := k.backBy(ctx, name, member, deadline)
		if !ok || wait <= 0 {
			return ok
		}
		back := time.NewTimer(wait)
		select {
		case <-back.C:
		case <-changed:
		case <-limit:
			back.Stop()
			return false
		case <-ctx.Done():
			back.Stop()
			return false
		}
		back.Stop()
	}
}

// backBy is how long it takes until a pool has a member again, or the one that is
// named, zero if it has it; false if that is after the deadline, or the pool is gone.
func (k *Keeper) backBy(ctx context.Context, name string, member int64, deadline time.Time) (time.Duration, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.view.pool(name)
	if p == nil {
		return 0, false
	}
	members, err := k.candidates(ctx, p, nil)
	if err != nil {
		return 0, false
	}
	now := k.opts.Now()
	if i := p.memberIndex(member); i >= 0 {
		until := members[i].until
		return max(0, until.Sub(now)), !until.After(deadline)
	}
	if choose(members, p.activeIndex(), now) >= 0 {
		return 0, true
	}
	until := members[soonest(members)].until
	return until.Sub(now), !until.IsZero() && !until.After(deadline)
}

// Held is how many requests each pool holds now, of those that hold any.
func (k *Keeper) Held() map[string]int {
	held := make(map[string]int)
	for _, p := range k.view.pools.all() {
		if n := p.line.len() + p.tied.len(); n > 0 {
			held[p.pool.Name] = n
		}
	}
	return held
}
