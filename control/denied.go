package control

import "github.com/sluice-proxy/sluice/pool"

// Denied notes that somebody was not let in. It does not wait for the log, and a
// flood of them loses entries, not speed.
func (o *Operations) Denied(by Actor, reason string) {
	o.o.Log.Warn("access denied", "by", by.String(), "reason", reason)
	if o.o.Note != nil {
		o.o.Note(pool.Event{Kind: pool.EventDenied, Reason: reason, Actor: by.String()})
	}
}
