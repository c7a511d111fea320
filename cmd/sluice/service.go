package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/pool"
)

// notify tells systemd, if it is that who started the daemon.
func (d *sluiced) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Warn("systemd not told", "state", state, "error", err)
	}
}

// pingsPerLimit is how often the daemon is asked within the time after which systemd
// gives it up: one slow answer is no reason to be killed.
const pingsPerLimit = 3

// watchdog tells systemd that the daemon works, as long as it does: each ping is an
// answer of its own API. Without WatchdogSec= in the unit it does nothing.
func (d *sluiced) watchdog(ctx context.Context) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	if limit == 0 {
		return nil
	}
	client, err := api.Dial(d.cfg.Socket)
	if err != nil {
		return err
	}
	defer client.Close()
	pings(ctx, limit/pingsPerLimit, func(ctx context.Context) error { return answers(ctx, client) }, func(err error) {
		if err != nil {
			d.log.Error("the daemon does not answer itself: systemd will restart it", "within", limit, "error", err)
			return
		}
		d.notify(daemon.SdNotifyWatchdog)
	})
	return nil
}

// pings asks once in a period until ctx ends, and tells what came of it. An answer
// may take as long as the period.
func pings(ctx context.Context, period time.Duration, ask func(context.Context) error, tell func(error)) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, period)
		err := ask(limited)
		cancel()
		if ctx.Err() != nil {
			return
		}
		tell(err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// answers asks for the status, which goes through the store and the kernel. An error
// that the API answers is an answer: a restart would not mend what it tells of.
func answers(ctx context.Context, client *api.Client) error {
	_, err := client.Status(ctx)
	var said *pool.Error
	if errors.As(err, &said) {
		return nil
	}
	return err
}

// backlog is what the readers of the event log have still to be given.
func (d *sluiced) backlog(ctx context.Context) (map[string]int64, error) {
	return d.watch.Load().Backlog(ctx)
}
