package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// DefaultKeepEvents is how many events the log keeps.
	DefaultKeepEvents = 100_000
	// pruneInterval is how often older ones are deleted.
	pruneInterval = 6 * time.Hour
)

// Options of [New]. Pools, Events and Cursors are required.
type Options struct {
	Pools   Pools
	Events  Events
	Cursors Cursors
	// Readers get every event, and Channels the notices of those that have one. Names
	// are different from each other.
	Readers  []Reader
	Channels []Channel
	// KeepEvents is how many events the log keeps at least; more while a reader has
	// not seen them. Default: [DefaultKeepEvents].
	KeepEvents int64
	Log        *slog.Logger // nil discards
}

// Monitor writes recoveries and delivers events.
type Monitor struct {
	opts       Options
	deliveries []*delivery
	channels   []*delivery // those of deliveries that are of channels
}

// New makes a monitor, and of each reader that was not known a cursor: what happens
// from now on is what it gets.
func New(ctx context.Context, opts Options) (*Monitor, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.KeepEvents == 0 {
		opts.KeepEvents = DefaultKeepEvents
	}
	m := &Monitor{opts: opts}
	add := func(r Reader, batch int) {
		d := &delivery{events: opts.Events, cursors: opts.Cursors, reader: r, batch: batch, log: opts.Log}
		d.moved = sync.NewCond(&d.mu)
		m.deliveries = append(m.deliveries, d)
	}
	for _, r := range opts.Readers {
		add(r, readerBatch)
	}
	for _, c := range opts.Channels {
		add(channelReader{c}, channelBatch)
	}
	m.channels = m.deliveries[len(opts.Readers):]
	names := m.names()
	slices.Sort(names)
	for i := range names {
		if names[i] == "" || (i > 0 && names[i] == names[i-1]) {
			return nil, fmt.Errorf("two readers of the event log are named %q", names[i])
		}
	}
	if err := opts.Cursors.KeepReaders(ctx, names); err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := opts.Cursors.Cursor(ctx, name); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Monitor) names() []string {
	var names []string
	for _, d := range m.deliveries {
		names = append(names, d.reader.Name())
	}
	return names
}

// FollowClock moves what waits for an instant along with a wall clock that was set while no monitor ran. Run does so too,
// beside what is served by then: whoever serves members calls this before, lest one seems to be back.
func (m *Monitor) FollowClock(ctx context.Context) error {
	return m.followClock(ctx, readAnchor)
}

func (m *Monitor) followClock(ctx context.Context, clock func() (anchor, error)) error {
	r := &recovery{pools: m.opts.Pools, log: m.opts.Log, clock: clock}
	return r.followClock(ctx)
}

// Run works until ctx ends, and returns nil then.
func (m *Monitor) Run(ctx context.Context) error {
	alarm, err := newAlarm()
	if err != nil {
		return err
	}
	return errors.Join(m.run(ctx, alarm, readAnchor), alarm.close())
}

func (m *Monitor) run(ctx context.Context, alarm waiter, clock func() (anchor, error)) error {
	recovery := &recovery{pools: m.opts.Pools, log: m.opts.Log, alarm: alarm, clock: clock}
	outer := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return recovery.run(ctx) })
	group.Go(func() error { return m.prune(ctx) })
	for _, d := range m.deliveries {
		group.Go(func() error { return d.run(ctx) })
	}
	err := group.Wait()
	if outer.Err() != nil && errors.Is(err, outer.Err()) {
		return nil
	}
	return err
}

// prune keeps the log from growing without end.
func (m *Monitor) prune(ctx context.Context) error {
	for {
		n, err := m.opts.Cursors.PruneEvents(ctx, m.opts.KeepEvents)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			m.opts.Log.Warn("old events stay", "error", err)
		case n > 0:
			m.opts.Log.Debug("old events deleted", "number", n)
		}
		if err := sleep(ctx, pruneInterval); err != nil {
			return err
		}
	}
}

// Noticed waits until every channel has dealt with the event of a seq, or ctx ends,
// whose error it then returns. It is only of use while Run works.
func (m *Monitor) Noticed(ctx context.Context, seq int64) error {
	for _, d := range m.channels {
		if err := d.await(ctx, seq); err != nil {
			return err
		}
	}
	return nil
}

// Backlog is how many events each reader has still to be given.
func (m *Monitor) Backlog(ctx context.Context) (map[string]int64, error) {
	backlog := make(map[string]int64)
	for _, d := range m.deliveries {
		seq, err := m.opts.Cursors.Cursor(ctx, d.reader.Name())
		if err != nil {
			return nil, err
		}
		n, err := m.opts.Cursors.CountAfter(ctx, seq)
		if err != nil {
			return nil, err
		}
		backlog[d.reader.Name()] = n
	}
	return backlog, nil
}
