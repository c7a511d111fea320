package pool

import (
	"context"
	"fmt"
	"time"
)

// ResetStore keeps which agents were told that their pool is exhausted, and the auth
// resets that follow from it.
type ResetStore interface {
	MarkTold(ctx context.Context, id int64, at time.Time) error
	// RequestReset notes that a reset is due, unless one is already. What agents were
	// told before counts no more.
	RequestReset(ctx context.Context, id, seq int64) (requested bool, err error)
	DueResets(ctx context.Context) ([]DueReset, error)
	BeginReset(ctx context.Context, id int64) error
	// EndReset forgets a reset and adds the events, as a whole. A told that is not
	// zero is noted as MarkTold does.
	EndReset(ctx context.Context, id int64, told time.Time, events []Event, at time.Time) error
}

// DueReset is an auth reset that was requested and has not ended.
type DueReset struct {
	ID     int64 // of the pool
	Pool   string
	Seq    int64 // of the event that asked for it; 0: a person did
	Starts int   // how many daemons have begun it
}

// Told notes that an agent was told that the pool has no member left, and may have
// written that down. It is durable when Told returns, whatever becomes of the request.
// The first one of an exhaustion waits for the disk; all others cost a look at a flag.
func (k *Keeper) Told(name string) {
	if p := k.view.pool(name); p == nil || p.told.Load() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.view.pool(name)
	if p == nil || p.told.Load() {
		return
	}
	if err := k.opts.Store.MarkTold(context.Background(), p.id, k.opts.Now()); err != nil {
		// The agent is answered all the same; the next one that is told tries again.
		k.opts.Log.Error("not noted that an agent was told", "pool", name, "error", err)
		return
	}
	p.told.Store(true)
}

// RequestReset notes that the pool's agents are to have their auth reset, for the
// event with a seq, or at a person's request if that is 0. It says no if a reset is
// due or under way already and, if onlyTold is set, if no agent was told since the last.
func (k *Keeper) RequestReset(ctx context.Context, name string, seq int64, onlyTold bool) (requested bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := k.find(name)
	if err != nil {
		return false, err
	}
	if onlyTold && !p.told.Load() {
		return false, nil
	}
	ctx = k.noting(ctx, Event{Kind: EventResetAsked, Pool: name, Target: p.pool.AuthResetTarget})
	if requested, err = k.opts.Store.RequestReset(ctx, p.id, seq); err != nil {
		return false, fmt.Errorf("pool %s: %w", name, err)
	}
	if requested {
		p.told.Store(false)
		k.events.raise()
	}
	return requested, nil
}

// DueResets lists the resets that were requested and have not ended.
func (k *Keeper) DueResets(ctx context.Context) ([]DueReset, error) {
	return k.opts.Store.DueResets(ctx)
}

// BeginReset counts a start of a reset; it is durable when it returns.
func (k *Keeper) BeginReset(ctx context.Context, r DueReset) error {
	return k.opts.Store.BeginReset(ctx, r.ID)
}

// EndReset ends a reset with what is to be said of it. An agent that was not reset is
// still told.
func (k *Keeper) EndReset(ctx context.Context, r DueReset, done bool, events []Event) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.opts.Now()
	var told time.Time
	if !done {
		told = now
	}
	if err := k.opts.Store.EndReset(ctx, r.ID, told, events, now); err != nil {
		return fmt.Errorf("pool %s: %w", r.Pool, err)
	}
	if p := k.view.pool(r.Pool); p != nil && p.id == r.ID && !done {
		p.told.Store(true)
	}
	if len(events) > 0 {
		k.events.raise()
	}
	return nil
}
