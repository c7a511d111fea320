package pool

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// tally counts what a membership was answered. It is shared by the views that one
// configuration after the other makes of it.
type tally struct {
	answers   [OutcomeBilling + 1]atomic.Uint64
	costless  atomic.Uint64 // among those that are good
	failovers atomic.Uint64 // away from it
	lifted    lifted        // guarded by the keeper's lock
}

// good is how many answers have shown that there is something left of the member's quota.
func (t *tally) good() uint64 { return t.answers[OutcomeOK].Load() - t.costless.Load() }

// lifted is a cooldown that a good answer has ended. It is in force again if that answer itself turns out to be a refusal,
// unless something has been heard of the member since.
type lifted struct {
	was  Cooldown
	sent time.Time // of the answer's lease
	good uint64    // good answers by then
}

// again is that cooldown, if the answer to the lease has ended it and is the last word. That an answer begins shows still that
// its credential is accepted, and that there is credit.
func (t *tally) again(l Lease) (c Cooldown, ok bool) {
	ok = t.lifted.was.limited() && t.lifted.sent.Equal(l.Sent) && t.lifted.good == t.good()
	return t.lifted.was, ok
}

// Tally is what a member was answered since the daemon started.
type Tally struct {
	Pool, Member string
	// Answers are numbers by outcome.
	Answers map[Outcome]uint64
	// Failovers is how often a pool went on to another member because of it.
	Failovers uint64
}

// Tallies are the numbers of all members, by pool and in their order.
func (k *Keeper) Tallies() []Tally {
	var all []Tally
	for _, p := range k.view.pools.all() {
		for i := range p.members {
			m := &p.members[i]
			t := Tally{Pool: p.pool.Name, Member: m.name, Answers: make(map[Outcome]uint64), Failovers: m.tally.failovers.Load()}
			for o := range m.tally.answers {
				t.Answers[Outcome(o)] = m.tally.answers[o].Load()
			}
			all = append(all, t)
		}
	}
	slices.SortStableFunc(all, func(a, b Tally) int { return strings.Compare(a.Pool, b.Pool) })
	return all
}

// tallyOf is what the view before of a pool, if any, counted for a membership, or a new one.
func tallyOf(member int64, before *poolView) *tally {
	if before != nil {
		if i := before.memberIndex(member); i >= 0 {
			return before.members[i].tally
		}
	}
	return new(tally)
}
