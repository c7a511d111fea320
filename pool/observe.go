package pool

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Observe judges the member that a request was sent with, and nobody else, by the
// answer. When it returns, what it learnt is durable: the cooldown, the move to
// the next member and the events of both, in one transaction. It is no less so if ctx ends:
// whoever asked may have gone, and the answer has come.
func (k *Keeper) Observe(ctx context.Context, l Lease, a Answer) (Outcome, error) {
	v := Classify(a, k.opts.Now())
	if l.tally != nil {
		l.tally.answers[v.Outcome].Add(1)
		if v.Outcome == OutcomeOK && a.Costless {
			l.tally.costless.Add(1)
		}
	}
	if v.Outcome == OutcomeOther {
		return v.Outcome, nil
	}
	if v.Outcome == OutcomeOK {
		return v.Outcome, k.observeGood(ctx, l, a.Costless)
	}
	// The member has said it, whether or not the agent is still there to hear.
	return v.Outcome, k.observeRefusal(context.WithoutCancel(ctx), l, v, !a.Begun.IsZero())
}

// observeGood ends a cooldown that began before the request was sent: the member
// is back. An answer to an older request says nothing, nor does one that cost nothing,
// but that the credential is accepted.
func (k *Keeper) observeGood(ctx context.Context, l Lease, costless bool) error {
	c, err := k.cooldown(ctx, l.member)
	if err != nil {
		return err
	}
	if !c.endedBy(l) || costless && !c.rejected() {
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
	if c, err = k.cooldownLocked(ctx, l.member); err != nil || !c.endedBy(l) || costless && !c.rejected() {
		return err
	}
	now := k.opts.Now()
	was := *c
	change := Change{Pool: p.id, Cooldowns: map[int64]Cooldown{l.member: {}}, At: now}
	if p.state.Load() == StateExhausted {
		change.To, change.EdgeEvent = StateHealthy, recoveredEvent(p, l.Member)
		change.Active = l.member
	}
	k.apply(ctx, p, change)
	t := p.members[p.memberIndex(l.member)].tally
	t.lifted = lifted{was: was, sent: l.Sent, good: t.good()}
	return nil
}

// current is the pool of a lease, or nil if its member has left since.
func (k *Keeper) current(l Lease) *poolView {
	p := k.view.pool(l.Pool)
	if p == nil || p.memberIndex(l.member) < 0 {
		return nil
	}
	return p
}

// observeRefusal cools the member and, if it was the active one, goes on to the next. late: the answer has been taken for a
// good one before.
func (k *Keeper) observeRefusal(ctx context.Context, l Lease, v Verdict, late bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.current(l)
	if p == nil {
		return nil
	}
	index := p.memberIndex(l.member)
	if v.Outcome == OutcomeAuthFailed {
		if !p.members[index].has(l.Inject) {
			return nil // what was not accepted has been replaced
		}
		k.hasten(l.Member) // its source may have another by now
	}
	var again *Cooldown
	if c, ok := p.members[index].tally.again(l); late && ok {
		c.Began = k.opts.Now() // what was sent until now was sent to a member that was not out
		again = &c
	}
	return k.cool(ctx, p, index, v, l.Probe, again)
}

// has says whether these fields carry what the member has now.
func (m *memberView) has(fields []Field) bool {
	return slices.ContainsFunc(m.inject, func(now []Field) bool { return sameFields(now, fields) })
}

// cool does it, on top of the cooldown that the member has, or of one that is in force again. The lock is held.
func (k *Keeper) cool(ctx context.Context, p *poolView, index int, v Verdict, probe bool, again *Cooldown) error {
	m := &p.members[index]
	now := k.opts.Now()
	before, err := k.cooldownLocked(ctx, m.id)
	if err != nil {
		return err
	}
	if v.Outcome == OutcomeAuthFailed && v.Rejected == "" && before.Out(now) && before.rejected() {
		return nil // the token endpoint has said more, or an answer before this one the same
	}
	if again == nil {
		again = before
	}
	after := again.extend(v, probe, now, max(0, k.opts.ProbeInterval))
	change := Change{Pool: p.id, Cooldowns: map[int64]Cooldown{m.id: after}, At: now}

	members, err := k.candidates(ctx, p, nil)
	if err != nil {
		return err
	}
	members[index].until = after.Until
	active := p.activeIndex()
	next := choose(members, active, now)
	switch {
	case next < 0:
		if p.state.Load() != StateExhausted {
			first := soonest(members)
			change.To = StateExhausted
			change.EdgeEvent = exhaustedEvent(p, len(members), &p.members[first], members[first].until, now, after.Reason)
		}
	case index == active && next != active:
		change.Active = p.members[next].id
		change.Parked = map[int64]bool{p.members[next].id: false}
		change.Events = []Event{failoverEvent(p, m.name, p.members[next].name, after, now, v)}
	}
	if after == *before && change.Active == 0 && change.To == "" {
		return nil // one of many that were told the same
	}
	k.opts.Log.Info("member is out", "pool", p.pool.Name, "member", m.name, "until", after.Until.UTC(), "reason", after.Reason)
	k.apply(ctx, p, change)
	if change.Active != 0 {
		m.tally.failovers.Add(1)
	}
	return nil
}

func failoverEvent(p *poolView, from, to string, c Cooldown, now time.Time, v Verdict) Event {
	detail := fmt.Sprintf("to %s; %s is back in %s", to, from, Span(c.Until.Sub(now)))
	if hint := v.hint(); hint != "" {
		detail += " (" + hint + ")"
	}
	return Event{Kind: EventFailover, Pool: p.pool.Name, Member: from, To: to, Until: c.Until, Reason: v.cause(), Detail: detail}
}

func exhaustedEvent(p *poolView, members int, first *memberView, until, now time.Time, reason string) Event {
	detail := fmt.Sprintf("all %d members are out; %s recovers first,", members, first.name)
	if members == 1 {
		detail = "its only member is out; " + first.name + " is back"
	}
	return Event{
		Kind: EventExhausted, Pool: p.pool.Name, Member: first.name, Until: until, Members: members, Reason: reason,
		Detail: fmt.Sprintf("%s in %s", detail, Span(until.Sub(now))),
	}
}

// without is the exhausted edge of a pool whose members are all out once one has left that is not; none if it is not one of
// those. The lock is held.
func (k *Keeper) without(ctx context.Context, pool, credential string) (edge Change, err error) {
	p := k.view.pool(pool)
	if p == nil || p.state.Load() == StateExhausted {
		return Change{}, nil
	}
	all, err := k.candidates(ctx, p, nil)
	if err != nil {
		return Change{}, err
	}
	var left []candidate
	for i, m := range all {
		if p.members[i].name != credential {
			left = append(left, m)
		}
	}
	now := k.opts.Now()
	if len(left) == 0 || len(left) == len(all) || choose(left, 0, now) >= 0 {
		return Change{}, nil // the store says why it cannot be removed, if it cannot
	}
	if err := k.save(ctx); err != nil { // what came before it
		return Change{}, err
	}
	first := &p.members[p.memberIndex(left[soonest(left)].id)]
	c, err := k.cooldownLocked(ctx, first.id)
	if err != nil {
		return Change{}, err
	}
	event := exhaustedEvent(p, len(left), first, c.Until, now, c.Reason)
	return Change{Pool: p.id, To: StateExhausted, EdgeEvent: event, At: now}, nil
}

func recoveredEvent(p *poolView, member string) Event {
	return Event{Kind: EventRecovered, Pool: p.pool.Name, Member: member, Since: p.since, Detail: member + " is available again"}
}

// Recover writes the recovered edge of every exhausted pool that has a member
// again, and returns the instant at which the next one will: zero if there is none.
func (k *Keeper) Recover(ctx context.Context) (next time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.opts.Now()
	for _, id := range slices.Sorted(maps.Keys(k.view.out)) {
		p := k.view.out[id]
		members, err := k.candidates(ctx, p, nil)
		if err != nil {
			return time.Time{}, err
		}
		if i := choose(members, p.activeIndex(), now); i >= 0 {
			change := Change{Pool: p.id, To: StateHealthy, EdgeEvent: recoveredEvent(p, p.members[i].name), At: now}
			k.apply(ctx, p, change)
			continue
		}
		if first := members[soonest(members)].until; next.IsZero() || first.Before(next) {
			next = first
		}
	}
	return next, nil
}

// Waiting returns a channel that is closed when what [Keeper.Recover] returned may no
// longer hold.
func (k *Keeper) Waiting() <-chan struct{} { return k.waiting.wait() }

// ClockAnchor is what the last call of [Keeper.ClockSet] was given, in this process
// or an earlier one; nil if there was none.
func (k *Keeper) ClockAnchor(ctx context.Context) ([]byte, error) {
	return k.opts.Store.ClockAnchor(ctx)
}

// ClockSet tells that the wall clock was set, forward if by is positive: a cooldown
// lasts as long as before, and what failed is left alone for as long. The anchor is
// stored with the change.
func (k *Keeper) ClockSet(ctx context.Context, by time.Duration, anchor []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.opts.Store.ShiftTimes(ctx, by, anchor); err != nil {
		return fmt.Errorf("follow the clock: %w", err)
	}
	if by == 0 {
		return nil
	}
	k.opts.Log.Warn("the clock was set: cooldowns moved with it", "by", by)
	k.unsaved.shift(by)
	k.refresh.shift(by)
	k.fetches.shift(by)
	k.cooldowns.Clear()
	for _, p := range k.view.byID {
		if !p.since.IsZero() {
			p.since = p.since.Add(by)
		}
		for i := range p.members {
			p.members[i].tally.lifted.was.shift(by)
		}
	}
	k.waiting.raise()
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
