package control

import (
	"context"

	"github.com/sluice-proxy/sluice/pool"
)

// Events is the log of what happened.
type Events interface {
	// EventsAfter lists at most limit events with a seq above after, oldest first.
	EventsAfter(ctx context.Context, after int64, limit int) ([]pool.Event, error)
	// LastEvents lists the last limit events, oldest first.
	LastEvents(ctx context.Context, limit int) ([]pool.Event, error)
	// EventAdded is closed at the next event.
	EventAdded() <-chan struct{}
}

// eventsAtOnce is how many events are taken out of the log at a time.
const eventsAtOnce = 256

// ListEvents lists events, oldest first: those after a seq, or the last ones if
// after is negative.
func (o *Operations) ListEvents(ctx context.Context, after int64, limit int) ([]pool.Event, error) {
	if after < 0 {
		return o.o.Events.LastEvents(ctx, limit)
	}
	return o.o.Events.EventsAfter(ctx, after, limit)
}

// FollowEvents calls each with the events that ListEvents would list and then
// with every further one, in order, until ctx ends or each fails.
func (o *Operations) FollowEvents(ctx context.Context, after int64, limit int, each func([]pool.Event) error) error {
	// The channel is taken first, so that an event between the list and the
	// wait is not slept through.
	added := o.o.Events.EventAdded()
	events, err := o.ListEvents(ctx, after, limit)
	if err != nil {
		return err
	}
	seq := max(after, 0)
	for {
		if len(events) > 0 {
			if err := each(events); err != nil {
				return err
			}
			seq = events[len(events)-1].Seq
		} else {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-added:
			}
		}
		added = o.o.Events.EventAdded()
		if events, err = o.o.Events.EventsAfter(ctx, seq, eventsAtOnce); err != nil {
			return err
		}
	}
}
