package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/pool"
)

// Between two tries to reach a daemon that has gone.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = 2 * time.Second
)

// following is a stream of events that goes on where it was when the daemon has been
// restarted: no event is missed, and none comes twice.
type following struct {
	client *api.Client
	after  int64 // seq of the last event that was had
	each   func(api.Event) error
	back   func()      // the daemon answers, for the first time and after each loss; nil is nobody cares
	lost   func(error) // it does not any more; called once until it is back
}

// run ends with ctx, which is no error, with an error of each, and with a daemon that
// answers but refuses.
func (f *following) run(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstWait, longestWait
	away := false
	var stopped error
	for {
		err := f.client.Follow(ctx, f.after, func() {
			wait.Reset()
			away = false
			if f.back != nil {
				f.back()
			}
		}, func(e api.Event) error {
			if stopped = f.each(e); stopped == nil {
				f.after = e.Seq
			}
			return stopped
		})
		if stopped != nil || ctx.Err() != nil || !passing(err) {
			return err
		}
		if !away {
			away = true
			f.lost(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// passing says whether an error is one that a daemon's restart brings: it does not answer,
// or ends in the middle of an answer.
func passing(err error) bool {
	var known *pool.Error
	return err != nil && (!errors.As(err, &known) || known.Code == pool.CodeUnavailable || known.Code == pool.CodeInternal)
}

// follow prints events as they come, after the last n, until Ctrl-C.
func (c *cli) follow(ctx context.Context, client *api.Client, n int) error {
	events, err := client.Events(ctx, n)
	if err != nil {
		return err
	}
	f := following{client: client, each: c.printEvent}
	for _, event := range events {
		if err := c.printEvent(event); err != nil {
			return err
		}
		f.after = event.Seq
	}
	away := false
	f.lost = func(err error) {
		away = true
		fmt.Fprintf(c.stderr, "sluice: events: %s; going on once it is back, Ctrl-C ends this\n", oneLine(err))
	}
	f.back = func() {
		if away {
			away = false
			fmt.Fprintln(c.stderr, "sluice: events: the daemon is back")
		}
	}
	return f.run(ctx)
}
