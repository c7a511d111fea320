package pool

import (
	"slices"
	"strings"
	"sync/atomic"
)

// tally counts what a membership was answered. It is shared by the views that one
// configuration after the other makes of it.
type tally struct {
	answers   [OutcomeBilling + 1]atomic.Uint64
	failovers atomic.Uint64 // away from it
}

// Tally is what a member was answered since the daemon started.
type Tally struct {
	Pool, Member string
	// Answers are numbers by outcome.
	Answers map[Outcome]uint64
	// Failovers is how often a pool went on to another member because of it.
	Failovers uint64
}

// Tallies are the numbers of all members, by pool and in the pools' order.
func (k *Keeper) Tallies() []Tally {
	var all []Tally
	for _, p := range k.view.Load().ordered {
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

// tallyOf is what the view before counted for a membership, or a new one.
func (v *view) tallyOf(member int64, before *view) *tally {
	t := new(tally)
	if before != nil && before.tallies[member] != nil {
		t = before.tallies[member]
	}
	v.tallies[member] = t
	return t
}
