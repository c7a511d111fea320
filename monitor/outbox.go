package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/sluice-proxy/sluice/pool"
)

// Events is the log of what happened; *pool.Keeper is one.
type Events interface {
	// EventsAfter lists at most limit events with a seq above after, oldest first.
	EventsAfter(ctx context.Context, after int64, limit int) ([]pool.Event, error)
	// EventAdded is closed at the next event.
	EventAdded() <-chan struct{}
}

// Cursors remember how far each reader has come; *store.DB does.
type Cursors interface {
	// Cursor is the seq of the last event that the reader has dealt with. One that is
	// not known begins after the newest event.
	Cursor(ctx context.Context, reader string) (int64, error)
	SetCursor(ctx context.Context, reader string, seq int64) error
	// KeepReaders forgets all but the named ones.
	KeepReaders(ctx context.Context, readers []string) error
	// CountAfter is how many events have a seq above after.
	CountAfter(ctx context.Context, after int64) (int64, error)
	// PruneEvents deletes events that every reader is past, down to the newest keep.
	PruneEvents(ctx context.Context, keep int64) (int64, error)
}

// Reader gets every event once, in order. Deliver is called by one goroutine at a
// time; when it fails, the same events come again later. After a kill the events
// of the last call may come once more: their Seq tells.
type Reader interface {
	// Name is the reader's in logs and in the store; it never changes.
	Name() string
	Deliver(ctx context.Context, events []pool.Event) error
}

// RetryAfterError is an error of Deliver that knows when to try again.
type RetryAfterError interface {
	error
	RetryAfter() time.Duration // 0 = it does not
}

const (
	// firstRetry and lastRetry bound the time between two tries of a reader that fails.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// readerBatch and channelBatch are how many events one delivery has at most. A
	// channel gets one, so that of two notices the first is not sent again when the
	// second fails.
	readerBatch  = 256
	channelBatch = 1
)

// delivery hands the events to one reader.
type delivery struct {
	events  Events
	cursors Cursors
	reader  Reader
	batch   int
	log     *slog.Logger
	// taken is the seq up to which the reader has taken all: the store may not take that down, on a full disk say, and
	// nobody is to be told the same again and again until it does.
	taken int64

	mu    sync.Mutex
	seq   int64      // up to which all is delivered; guarded by mu
	moved *sync.Cond // seq has risen
}

// await waits until the event of a seq is delivered.
func (d *delivery) await(ctx context.Context, seq int64) error {
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.moved.Broadcast()
	})
	defer stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.seq < seq {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.moved.Wait()
	}
	return nil
}

// arrived says that everything up to a seq is delivered.
func (d *delivery) arrived(seq int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq = seq
	d.moved.Broadcast()
}

// run works until ctx ends, whose error it returns.
func (d *delivery) run(ctx context.Context) error {
	pause := newPause()
	for {
		err := d.follow(ctx, pause)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := time.Duration(0)
		if after := RetryAfterError(nil); errors.As(err, &after) {
			wait = after.RetryAfter()
		}
		if wait > 0 { // whoever says when is not kept waiting for longer
			wait = max(wait, firstRetry)
		} else {
			wait = pause.NextBackOff()
		}
		d.log.Warn("not delivered: it is kept and tried again", "reader", d.reader.Name(), "error", err, "again_in", wait.Round(time.Second))
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// newPause doubles from firstRetry to lastRetry, for ever, with half of it by chance,
// so that channels that failed together do not all come back together.
func newPause() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: firstRetry, MaxInterval: lastRetry, Multiplier: 2, RandomizationFactor: 0.5,
	}
}

// follow delivers what there is and what comes until something fails.
func (d *delivery) follow(ctx context.Context, pause *backoff.ExponentialBackOff) error {
	seq, err := d.cursors.Cursor(ctx, d.reader.Name())
	if err != nil {
		return err
	}
	d.arrived(seq)
	for {
		// Taken before the list, so that an event in between is not slept through.
		added := d.events.EventAdded()
		events, err := d.events.EventsAfter(ctx, seq, d.batch)
		if err != nil {
			return fmt.Errorf("read the event log: %w", err)
		}
		if len(events) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-added:
			}
			continue
		}
		if seq, err = d.deliver(ctx, events); err != nil {
			return err
		}
		d.arrived(seq)
		pause.Reset()
	}
}

// deliver returns the seq up to which all is delivered and written down.
func (d *delivery) deliver(ctx context.Context, events []pool.Event) (int64, error) {
	last := events[len(events)-1].Seq
	events = slices.DeleteFunc(events, func(e pool.Event) bool { return e.Seq <= d.taken })
	if len(events) > 0 {
		if err := d.reader.Deliver(ctx, events); err != nil {
			return 0, err
		}
		d.taken = last
	}
	// It is delivered, whatever happens to ctx: only the cursor keeps it from being so twice.
	if err := d.cursors.SetCursor(context.WithoutCancel(ctx), d.reader.Name(), last); err != nil {
		return 0, err
	}
	return last, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
