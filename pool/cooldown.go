package pool

import (
	"strings"
	"time"
)

const (
	// MinCooldown and MaxCooldown bound what an upstream's word is taken for: a
	// member is neither hammered nor given up for days on one answer.
	MinCooldown = 10 * time.Second
	MaxCooldown = 6 * time.Hour
	// unhintedCooldown is for a refusal that says nothing of its end; it doubles
	// with each such refusal in a row, up to maxUnhinted.
	unhintedCooldown = time.Minute
	maxUnhinted      = time.Hour
	authCooldown     = 5 * time.Minute
	billingCooldown  = time.Hour
)

// Cooldown is why and until when a member is out. The zero value is no cooldown.
type Cooldown struct {
	Began    time.Time
	Until    time.Time
	Reason   string
	Unhinted int       // refusals in a row that said nothing of their end
	ProbeAt  time.Time // when a real request may find out whether the member is back already
}

// Out says whether the member is out at now.
func (c Cooldown) Out(now time.Time) bool { return now.Before(c.Until) }

// rejected says whether the credential itself was the reason.
func (c Cooldown) rejected() bool { return strings.HasPrefix(c.Reason, authFailed) }

// limited says whether a limit was the reason.
func (c Cooldown) limited() bool { return strings.HasPrefix(c.Reason, rateLimited) }

// endedBy says whether a good answer to the lease's request ends the cooldown: only
// one that was sent after it began has found out anything.
func (c Cooldown) endedBy(l Lease) bool { return !c.Until.IsZero() && l.Sent.After(c.Began) }

// shift moves its instants with the clock.
func (c *Cooldown) shift(by time.Duration) {
	for _, t := range []*time.Time{&c.Began, &c.Until, &c.ProbeAt} {
		if !t.IsZero() {
			*t = t.Add(by)
		}
	}
}

// clampCooldown keeps a stated wait within bounds.
func clampCooldown(d time.Duration) time.Duration { return max(MinCooldown, min(d, MaxCooldown)) }

// unhinted is how long the n-th refusal in a row without a hint cools, n from 1.
func unhinted(n int) time.Duration {
	d := unhintedCooldown
	for ; n > 1 && d < maxUnhinted; n-- {
		d *= 2
	}
	return min(d, maxUnhinted)
}

// extend is the cooldown after one more refusal: it never ends earlier than before.
// A refused probe without a hint changes nothing: it learnt nothing new.
func (c Cooldown) extend(v Verdict, probe bool, now time.Time, probeInterval time.Duration) Cooldown {
	var wait time.Duration
	next := c
	switch {
	case v.Outcome == OutcomeAuthFailed:
		wait = max(authCooldown, v.wait)
	case v.Outcome == OutcomeBilling:
		wait = billingCooldown // when a bucket is full again says nothing of the credit
	case v.Hint.Known():
		wait = clampCooldown(v.Hint.Wait)
		next.Unhinted = 0
	case probe && c.Out(now):
		next.ProbeAt = now.Add(probeInterval)
		return next
	case c.Out(now):
		wait = unhinted(max(1, c.Unhinted)) // one of several requests that were under way together
	default:
		next.Unhinted++
		wait = unhinted(next.Unhinted)
	}
	if !c.Out(now) {
		next.Began = now
		next.ProbeAt = now.Add(probeInterval)
	} else if probe {
		next.ProbeAt = now.Add(probeInterval)
	}
	if until := now.Add(wait); until.After(c.Until) {
		next.Until = until
		next.Reason = v.reason()
	}
	return next
}
