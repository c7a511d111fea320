package main

import (
	"context"

	"github.com/sluice-proxy/sluice/pool"
)

// waitingNotes is how many events may wait to be written.
const waitingNotes = 64

// note hands an event to the goroutine that writes the log. It never waits: an
// agent that floods the log loses entries, not speed, and what is left out of
// the log is on standard error.
func (d *sluiced) note(e pool.Event) {
	select {
	case d.notes <- e:
	default:
	}
}

func (d *sluiced) writeNotes(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-d.notes:
			d.record(ctx, e)
		}
	}
}

// record writes an event. What it is about has happened: that it cannot be
// written down undoes nothing.
func (d *sluiced) record(ctx context.Context, e pool.Event) {
	if err := d.keep.Record(context.WithoutCancel(ctx), e); err != nil {
		d.log.Error("event not recorded", "kind", e.Kind, "error", err)
	}
}
