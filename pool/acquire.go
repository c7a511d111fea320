package pool

import (
	"context"
	"time"
)

// Acquire leases the member that the next attempt of a request goes out with.
// tried are the members that refused this request already. In the usual case,
// the active member being there, it takes no lock and allocates nothing.
//
// Errors: [ErrNoPool]; [*ExhaustedError] when no member is left.
func (k *Keeper) Acquire(ctx context.Context, r Route, tried []string) (Lease, error) {
	l, err := k.acquire(ctx, r, tried)
	for l.stale && err == nil {
		var rejected bool
		if l, rejected = k.fresh(ctx, r, l); !rejected {
			break
		}
		l, err = k.acquire(ctx, r, tried) // that one is out now
	}
	return l, err
}

func (k *Keeper) acquire(ctx context.Context, r Route, tried []string) (Lease, error) {
	p := k.view.pool(r.Pool)
	if p == nil {
		return Lease{}, ErrNoPool
	}
	b := p.binding(r.Host, r.Port)
	if b < 0 {
		return Lease{}, ErrNoPool
	}
	now := k.opts.Now()
	if len(tried) == 0 {
		m := &p.members[p.activeIndex()]
		if !m.parked.Load() {
			c, err := k.cooldown(ctx, m.id)
			if err != nil {
				return Lease{}, err
			}
			if !c.Out(now) {
				return p.lease(m, b, now), nil
			}
		}
	}
	return k.acquireSlow(ctx, r, tried, now)
}

func (p *poolView) lease(m *memberView, binding int, now time.Time) Lease {
	return Lease{
		Pool: p.pool.Name, Member: m.name, Sent: now, Inject: m.inject[binding], Also: m.also[binding],
		Strip: p.strip, StripQuery: p.stripQry, Echo: m.echo(), member: m.id, tally: m.tally,
		Refreshable: m.refreshable, stale: m.refreshable && m.ends > 0 && now.UnixNano() >= m.ends,
	}
}

// acquireSlow looks at every member and moves the active pointer if it must.
func (k *Keeper) acquireSlow(ctx context.Context, r Route, tried []string, now time.Time) (Lease, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// An edit may have put another view in place while this waited.
	p := k.view.pool(r.Pool)
	if p == nil {
		return Lease{}, ErrNoPool
	}
	binding := p.binding(r.Host, r.Port)
	if binding < 0 {
		return Lease{}, ErrNoPool
	}
	members, err := k.candidates(ctx, p, tried)
	if err != nil {
		return Lease{}, err
	}
	active := p.activeIndex()
	i := choose(members, active, now)
	if i < 0 || r.Aside && len(tried) > 0 && members[i].parked { // a rotation is not undone for that
		if r.Standing && len(tried) == 0 {
			if l, ok := p.standing(members, active, binding, now); ok {
				return l, nil
			}
		}
		return k.probeOrExhausted(ctx, p, r, binding, members, now)
	}
	m := &p.members[i]
	// A request that goes on after a refusal finds the pointer moved already; when it
	// has to pass over members of its own, that is no reason to move everybody.
	if (i != active && len(tried) == 0) || m.parked.Load() {
		change := Change{Pool: p.id, Active: m.id, Parked: map[int64]bool{m.id: false}, At: now}
		k.apply(ctx, p, change)
	}
	return p.lease(m, binding, now), nil
}

// standing leases the first member, from the active one on, that is out for its limits alone, to
// who asks how it stands. Nothing moves for that.
func (p *poolView) standing(members []candidate, active, binding int, now time.Time) (Lease, bool) {
	for i := range members {
		j := (active + i) % len(members)
		if members[j].rejected {
			continue
		}
		if l := p.lease(&p.members[j], binding, now); !l.stale {
			return l, true
		}
	}
	return Lease{}, false
}

// probeOrExhausted lets one request in a long exhaustion find out whether the
// soonest member is back already, and says no to the others, and to those that would not
// find out.
func (k *Keeper) probeOrExhausted(ctx context.Context, p *poolView, r Route, binding int, members []candidate, now time.Time) (Lease, error) {
	i := soonest(members)
	c, err := k.cooldownLocked(ctx, members[i].id)
	if err != nil {
		return Lease{}, err
	}
	if k.opts.ProbeInterval > 0 && !r.Costless && !members[i].tried && c.Out(now) && !now.Before(c.ProbeAt) {
		next := *c
		next.ProbeAt = now.Add(k.opts.ProbeInterval)
		k.apply(ctx, p, Change{Pool: p.id, Cooldowns: map[int64]Cooldown{members[i].id: next}, At: now})
		l := p.lease(&p.members[i], binding, now)
		l.Probe = true
		return l, nil
	}
	// A daemon of an earlier release may have died between a removal of a member and its edge.
	if p.state.Load() != StateExhausted && stateOf(members, now) == StateExhausted {
		change := Change{Pool: p.id, To: StateExhausted, EdgeEvent: exhaustedEvent(p, len(members), &p.members[i], members[i].until, now, c.Reason), At: now}
		k.apply(ctx, p, change)
	}
	e := &ExhaustedError{
		Pool: p.pool.Name, Provider: p.pool.Provider, Members: len(members),
		Soonest: p.members[i].name, RecoversAt: members[i].until, Reason: c.Reason,
	}
	wait := members[i].until.Sub(now)
	e.state(wait, k.opts.MaxStatedRetry, now)
	return Lease{}, e
}

// apply makes a change durable and then visible: whether the one who asked has given
// up by now or not, and visible even if the store refuses it. The lock is held.
func (k *Keeper) apply(ctx context.Context, p *poolView, c Change) {
	k.commit(context.WithoutCancel(ctx), c)
	k.reveal(p, c)
}

// decide is apply for what a person asked for: if the store refuses it, nothing has changed and they are told so,
// for it would not outlive the daemon. The lock is held.
func (k *Keeper) decide(ctx context.Context, p *poolView, c Change) error {
	ctx = context.WithoutCancel(ctx)
	if err := k.save(ctx); err != nil { // what came before it
		return err
	}
	if err := k.opts.Store.Apply(ctx, c); err != nil {
		return err
	}
	k.reveal(p, c)
	return nil
}

// reveal makes a change visible. The lock is held.
func (k *Keeper) reveal(p *poolView, c Change) {
	for member, cooldown := range c.Cooldowns {
		k.remember(member, &cooldown)
		if i := p.memberIndex(member); i >= 0 {
			p.members[i].tally.lifted = lifted{}
		}
	}
	k.view.show(p, c)
	if len(c.Cooldowns) > 0 {
		k.waiting.raise()
	}
	if len(c.Events) > 0 || c.To != "" {
		k.events.raise()
	}
}
