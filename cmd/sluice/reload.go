package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/control/telegram"
	"github.com/sluice-proxy/sluice/monitor"
)

// reloads is how the configuration is read again while the daemon runs.
type reloads struct {
	read   func() (config, error) // with the command line's flags applied
	signal <-chan os.Signal
	level  *slog.LevelVar
}

// needRestart names the keys that differ and that only a start applies: they belong to
// what lives as long as the daemon. The others are log.level, notify and the
// certificate of the API; the tokens of the API are read when they are asked for.
func needRestart(now, next config) []string {
	var keys []string
	for _, key := range []struct {
		name      string
		now, next any
	}{
		{"state_dir", now.StateDir, next.StateDir},
		{"socket", now.Socket, next.Socket},
		{"pin_dir", now.PinDir, next.PinDir},
		{"fail_mode", now.FailOpen, next.FailOpen},
		{"guard", now.Guard, next.Guard},
		{"max_flows", now.MaxFlows, next.MaxFlows},
		{"upstream_roots", string(now.UpstreamRoots), string(next.UpstreamRoots)},
		{"drain_time", now.DrainTime, next.DrainTime},
		{"vanished_after", now.VanishedAfter, next.VanishedAfter},
		{"log.format", now.LogFormat, next.LogFormat},
		{"pool", now.Pool, next.Pool},
		{"replay", now.Replay, next.Replay},
		{"accounts.unknown_tokens", now.RefuseTokens, next.RefuseTokens},
		{"secrets", now.Secrets, next.Secrets},
		{"api.listen", now.API.Listen, next.API.Listen},
		{"api.token_file", now.API.TokenFile, next.API.TokenFile},
		{"api.tls_cert", now.API.TLSCert != "", next.API.TLSCert != ""},
		{"reset_only_if_seen", now.ResetAlways, next.ResetAlways},
		{"profile", now.Profiles, next.Profiles},
		{"containers", now.Containers, next.Containers},
	} {
		if !reflect.DeepEqual(key.now, key.next) {
			keys = append(keys, key.name)
		}
	}
	return keys
}

// runNotices delivers events and takes commands from chats until ctx ends. SIGHUP has
// the configuration read again, and both begun anew if [notify] is another now. Nothing is
// lost or said twice by that: each channel's place in the log is in the store.
func (d *sluiced) runNotices(ctx context.Context) error {
	for {
		life, end := context.WithCancel(ctx)
		group, inner := errgroup.WithContext(life)
		group.Go(func() error { return d.watch.Load().Run(inner) })
		for _, bot := range d.bots {
			group.Go(func() error { return bot.Run(inner) })
		}
		var next *notifying
		group.Go(func() error {
			next = d.awaitReload(inner)
			end()
			return nil
		})
		err := group.Wait()
		end()
		if err != nil || next == nil {
			return err
		}
		d.cfg.Notify, d.bots = next.config, next.bots
		if err := d.newMonitor(ctx, next.channels); err != nil {
			return err
		}
		d.notify(daemon.SdNotifyReady)
	}
}

// notifying is what [notify] comes to.
type notifying struct {
	config   notifyConfig
	channels []monitor.Channel
	bots     []*telegram.Bot
}

// awaitReload reads the configuration again at each SIGHUP, and returns when another
// [notify] has to be put in place of the present one; nil if ctx ends before.
func (d *sluiced) awaitReload(ctx context.Context) *notifying {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.again.signal:
		}
		d.notify(daemon.SdNotifyReloading + monotonic())
		next, err := d.reload()
		if err != nil {
			d.log.Error("configuration not read again, the former one stays in force", "error", err)
			d.notify(daemon.SdNotifyReady + "\nSTATUS=Configuration not read again: " + oneLine(err))
			continue
		}
		d.log.Info("configuration read again")
		if next != nil {
			return next
		}
		d.notify(daemon.SdNotifyReady + "\nSTATUS=")
	}
}

// reload applies what can change while the daemon runs. An error means that nothing has
// changed. What it returns is to be put in place; nil: [notify] is as it was.
func (d *sluiced) reload() (*notifying, error) {
	next, err := d.again.read()
	if err != nil {
		return nil, err
	}
	var pair *tls.Certificate
	if d.tcp != nil && d.cfg.API.TLSCert != "" && next.API.TLSCert != "" {
		loaded, err := tls.LoadX509KeyPair(next.API.TLSCert, next.API.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("api.tls_cert: %w", err)
		}
		pair = &loaded
	}
	var notices *notifying
	if next.Notify.Sum != d.cfg.Notify.Sum {
		notices = &notifying{config: next.Notify}
		var failed error
		notices.channels, err = next.notices(d.log, d.keep)
		notices.bots, failed = d.newBots(next.Notify.Chats)
		if err := errors.Join(err, failed); err != nil {
			return nil, err
		}
	}
	if keys := needRestart(d.cfg, next); len(keys) > 0 {
		d.log.Warn("changed, and applied by a restart only", "keys", strings.Join(keys, ", "))
	}
	if pair != nil {
		d.tcp.pair.Store(pair)
	}
	d.again.level.Set(logLevel(next))
	return notices, nil
}

// monotonic is when the reload began, which systemd 253 and newer want to know.
func monotonic() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return ""
	}
	return fmt.Sprintf("\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
