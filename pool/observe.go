package pool

import (
	"context"
	"fmt"
	"time"
)

// Observe judges the member that a request was sent with, and nobody else, by the
// answer. When it returns, what it learnt is durable: the cooldown, the move to
// the next member and the events of both, in one transaction.
func (k *Keeper) Observe(ctx context.Context, l Lease, a Answer) (Outcome, error) {
	v := Classify(a, k.opts.Now())
	if v.Outcome == OutcomeOther {
		return v.Outcome, nil
	}
	if v.Outcome == OutcomeOK {
		return v.Outcome, k.observeGood(ctx, l)
	}
	// The member has said it, whether or not the agent is still there to hear.
	return v.Outcome, k.observeRefusal(context.WithoutCancel(ctx), l, v)
}

// observeGood ends a cooldown that began before the request was sent: the member
// is back. An answer to an older request says nothing.
func (k *Keeper) observeGood(ctx context.Context, l Lease) error {
	c, err := k.cooldown(ctx, l.member)
	if err != nil {
		return err
	}
	if !c.endedBy(l) {
		return nil
	}
	ctx = context.WithoutCancel(ctx) // as for a refusal; here, so that the usual answer costs nothing
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.current(l)
	if p == nil {
		return nil
	}
	// While this waited, the member may have been refused once more.
	if c, err = k.cooldownLocked(ctx, l.member); err != nil || !c.endedBy(l) {
		return err
	}
	now := k.opts.Now()
	change := Change{Pool: p.id, Cooldowns: map[int64]Cooldown{l.member: {}}, At: now}
	if p.state.Load() == StateExhausted {
		change.To, change.EdgeEvent = StateHealthy, recoveredEvent(p, l.Member)
		change.Active = l.member
	}
	return k.apply(ctx, p, change)
}

// current is the pool of a lease, or nil if its member has left since.
func (k *Keeper) current(l Lease) *poolView {
	p := k.view.Load().pools[l.Pool]
	if p == nil || p.memberIndex(l.member) < 0 {
		return nil
	}
	return p
}

// observeRefusal cools the member and, if it was the active one, goes on to the next.
func (k *Keeper) observeRefusal(ctx context.Context, l Lease, v Verdict) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.current(l)
	if p == nil {
		return nil
	}
	now := k.opts.Now()
	before, err := k.cooldownLocked(ctx, l.member)
	if err != nil {
		return err
	}
	after := before.extend(v, l.Probe, now, max(0, k.opts.ProbeInterval))
	change := Change{Pool: p.id, Cooldowns: map[int64]Cooldown{l.member: after}, At: now}

	members, err := k.candidates(ctx, p, nil, true, nil)
	if err != nil {
		return err
	}
	index := p.memberIndex(l.member)
	members[index].until = after.Until
	active := p.activeIndex()
	next := choose(members, active, now)
	switch {
	case next < 0:
		if p.state.Load() != StateExhausted {
			first := soonest(members)
			change.To = StateExhausted
			change.EdgeEvent = exhaustedEvent(p, &p.members[first], members[first].until, now, after.Reason)
		}
	case index == active && next != active:
		change.Active = p.members[next].id
		change.Parked = map[int64]bool{p.members[next].id: false}
		change.Events = []Event{failoverEvent(p, l.Member, p.members[next].name, after, now, v)}
	}
	if after == *before && change.Active == 0 && change.To == "" {
		return nil // one of many that were told the same
	}
	k.opts.Log.Info("member is out", "pool", p.pool.Name, "member", l.Member, "until", after.Until.UTC(), "reason", after.Reason)
	return k.apply(ctx, p, change)
}

func failoverEvent(p *poolView, from, to string, c Cooldown, now time.Time, v Verdict) Event {
	return Event{
		Kind: EventFailover, Pool: p.pool.Name, Member: from, Reason: v.reason(),
		Detail: fmt.Sprintf("to %s; %s is back in %s", to, from, c.Until.Sub(now).Round(time.Second)),
	}
}

func exhaustedEvent(p *poolView, first *memberView, until, now time.Time, reason string) Event {
	return Event{
		Kind: EventExhausted, Pool: p.pool.Name, Member: first.name, Reason: reason,
		Detail: fmt.Sprintf("all %d members are out; %s recovers first, in %s", len(p.members), first.name, until.Sub(now).Round(time.Second)),
	}
}

func recoveredEvent(p *poolView, member string) Event {
	return Event{Kind: EventRecovered, Pool: p.pool.Name, Member: member, Detail: member + " is available again"}
}

// Recover writes the recovered edge of every exhausted pool that has a member
// again, and returns the instant at which the next one will: zero if there is none.
func (k *Keeper) Recover(ctx context.Context) (next time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.opts.Now()
	for _, p := range k.view.Load().ordered {
		if p.state.Load() != StateExhausted {
			continue
		}
		members, err := k.candidates(ctx, p, nil, true, nil)
		if err != nil {
			return time.Time{}, err
		}
		if i := choose(members, p.activeIndex(), now); i >= 0 {
			change := Change{Pool: p.id, To: StateHealthy, EdgeEvent: recoveredEvent(p, p.members[i].name), At: now}
			if err := k.apply(ctx, p, change); err != nil {
				return time.Time{}, err
			}
			continue
		}
		if first := members[soonest(members)].until; next.IsZero() || first.Before(next) {
			next = first
		}
	}
	return next, nil
}

// Run writes recovered edges as they come, sleeping until the soonest, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		changed := k.waiting.wait()
		next, err := k.Recover(ctx)
		if err != nil && ctx.Err() == nil {
			k.opts.Log.Error("recovery of pools cannot be recorded", "error", err)
			next = k.opts.Now().Add(time.Second) // the disk may be full: try again
		}
		if err := k.sleep(ctx, next, changed); err != nil {
			return err
		}
	}
}

// sleep waits for an instant, for ever if it is zero, or for a change. A wall clock
// that is set forward, or a host that sleeps, makes it late by as much; never early.
func (k *Keeper) sleep(ctx context.Context, until time.Time, changed <-chan struct{}) error {
	var timer <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(max(until.Sub(k.opts.Now()), time.Millisecond))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-timer:
	}
	return nil
}

// EventsAfter lists at most limit events with a seq above after, oldest first.
func (k *Keeper) EventsAfter(ctx context.Context, after int64, limit int) ([]Event, error) {
	return k.opts.Store.EventsAfter(ctx, after, limit)
}

// LastEvents lists the last limit events, oldest first.
func (k *Keeper) LastEvents(ctx context.Context, limit int) ([]Event, error) {
	return k.opts.Store.LastEvents(ctx, limit)
}

// EventAdded returns a channel that is closed at the next event.
func (k *Keeper) EventAdded() <-chan struct{} { return k.events.wait() }

// Record adds an event to the log.
func (k *Keeper) Record(ctx context.Context, e Event) error {
	if err := k.opts.Store.Apply(ctx, Change{Events: []Event{e}, At: k.opts.Now()}); err != nil {
		return fmt.Errorf("record an event: %w", err)
	}
	k.events.raise()
	return nil
}
