package pool

import "time"

// candidate is what selection knows of a member.
type candidate struct {
	id     int64
	until  time.Time // end of its cooldown
	parked bool
	tried  bool // refused this very request already
	// rejected is true if it is, or was last, out for its credential.
	rejected bool
}

func (c candidate) eligible(now time.Time) bool { return !c.tried && !now.Before(c.until) }

// choose returns the index of the member that serves next, or -1: the active one
// while it can, else the first that can after it, wrapping. A member that a
// person rotated away from comes only when no other can.
func choose(members []candidate, active int, now time.Time) int {
	parked := -1
	for i := range members {
		j := (active + i) % len(members)
		switch {
		case !members[j].eligible(now):
		case !members[j].parked:
			return j
		case parked < 0:
			parked = j
		}
	}
	return parked
}

// soonest returns the index of the member that is back first, or -1 without members.
func soonest(members []candidate) int {
	first := -1
	for i, m := range members {
		if first < 0 || m.until.Before(members[first].until) {
			first = i
		}
	}
	return first
}

// stateOf says how much of the pool is left at now.
func stateOf(members []candidate, now time.Time) State {
	out := 0
	for _, m := range members {
		if now.Before(m.until) {
			out++
		}
	}
	switch out {
	case 0:
		return StateHealthy
	case len(members):
		return StateExhausted
	default:
		return StateDegraded
	}
}
