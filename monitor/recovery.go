package monitor

import (
	"context"
	"log/slog"
	"time"
)

// Pools are what recovers. *pool.Keeper is one.
type Pools interface {
	// Recover writes the recovered edges that are due, and returns the instant of the
	// next one: zero if there is none.
	Recover(ctx context.Context) (time.Time, error)
	// Waiting is closed when that instant may have changed.
	Waiting() <-chan struct{}
	// ClockAnchor is what the last ClockSet was given, nil if there was none.
	ClockAnchor(ctx context.Context) ([]byte, error)
	// ClockSet moves what waits for an instant along with the wall clock, and stores
	// the anchor with it.
	ClockSet(ctx context.Context, by time.Duration, anchor []byte) error
}

// retryRecovery is how long after a failure to write an edge it is tried again: the
// disk may be full.
const retryRecovery = time.Second

// recovery writes recovered edges when they are due. It sleeps until the soonest:
// nothing is polled.
type recovery struct {
	pools Pools
	log   *slog.Logger
	alarm waiter
	clock func() (anchor, error)
	// stored is the anchor that the store holds; nil before it was asked.
	stored []byte
}

// waiter waits for instants of the wall clock; *alarm is one.
type waiter interface {
	// wait returns at the instant, never if it is zero, and earlier when the clock is
	// set, changed is closed or ctx ends, whose error it then returns.
	wait(ctx context.Context, at time.Time, changed <-chan struct{}) error
}

// run works until ctx ends, whose error it returns.
func (r *recovery) run(ctx context.Context) error {
	for {
		changed := r.pools.Waiting()
		next, err := r.step(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.log.Error("the recovery of pools cannot be recorded", "error", err)
			next = time.Now().Add(retryRecovery)
		}
		if err := r.alarm.wait(ctx, next, changed); err != nil {
			return err
		}
	}
}

// step follows the clock first: an instant that it was set past has not come.
func (r *recovery) step(ctx context.Context) (next time.Time, err error) {
	if err := r.followClock(ctx); err != nil {
		return time.Time{}, err
	}
	return r.pools.Recover(ctx)
}

func (r *recovery) followClock(ctx context.Context) error {
	now, err := r.clock()
	if err != nil {
		return err
	}
	if r.stored == nil {
		if r.stored, err = r.pools.ClockAnchor(ctx); err != nil {
			return err
		}
	}
	by, known := now.setBy(r.stored)
	if by == 0 && known {
		return nil
	}
	if err := r.pools.ClockSet(ctx, by, now.encode()); err != nil {
		return err
	}
	r.stored = now.encode()
	return nil
}
