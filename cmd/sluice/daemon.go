package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/control/telegram"
	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/intercept/ca"
	"github.com/sluice-proxy/sluice/intercept/container"
	"github.com/sluice-proxy/sluice/intercept/exchange"
	"github.com/sluice-proxy/sluice/monitor"
	"github.com/sluice-proxy/sluice/monitor/audit"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/source"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
	"github.com/sluice-proxy/sluice/reset"
)

// apiGrace is how long requests to the API may go on once the daemon stops.
const apiGrace = 3 * time.Second

// sluiced is the daemon: every part there is, put together. open acquires, run
// works, close gives back in reverse order.
type sluiced struct {
	cfg      config
	log      *slog.Logger
	undo     []func() error // in the order of acquisition
	fds      *fdStore       // nil: no service manager keeps descriptors
	store    *store.DB
	secrets  *vault.Vault
	taken    map[string]vault.Secret // out of the environment
	sources  *source.Sources
	keep     *pool.Keeper
	ca       *permitting
	hooks    *bpf.Redirect
	in       *intercept.Interceptor
	exchange *exchange.Exchanger
	finder   *container.Finder
	resets   *reset.Resetter
	audit    *audit.Log
	watch    atomic.Pointer[monitor.Monitor] // another one after a reload of [notify]
	ops      *control.Operations
	api      *api.Server
	sock     net.Listener
	tcp      *tcpAPI // nil: not over TCP
	bots     []*telegram.Bot
	notes    chan pool.Event
	refused  denials
	tidy     bool // nobody said with GOGC how much garbage there may be
	again    reloads
}

// serve runs a daemon until SIGTERM or SIGINT; a second one kills it.
// SIGHUP has the configuration read again.
func serve(ctx context.Context, cfg config, read func() (config, error), e env) error {
	if err := seclude(); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	taken, err := takeEnvironment(cfg.Secrets.Env)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	cfg.CredentialDir = e.getenv("CREDENTIALS_DIRECTORY")
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	level := new(slog.LevelVar)
	level.Set(logLevel(cfg))
	d := &sluiced{
		fds: openFDStore(e.getenv("NOTIFY_SOCKET")), cfg: cfg, taken: taken, log: newLog(cfg, level, e), notes: make(chan pool.Event, waitingNotes),
		tidy: e.getenv("GOGC") == "", again: reloads{read: read, signal: hangup, level: level},
	}
	err = d.open(ctx)
	if err == nil {
		err = d.run(ctx)
	}
	if err = errors.Join(err, d.close()); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// open acquires everything, and first of all what a second daemon would
// collide with.
func (d *sluiced) open(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.openStore, d.openVault, d.openSocket, d.openKernel, d.openSources, d.openAuthority, d.openPools, d.openContainers, d.openResetter, d.openMonitor, d.permitBound, d.openInterceptor, d.openAPI, d.openTCP,
		d.openBots,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *sluiced) acquired(undo func() error) { d.undo = append(d.undo, undo) }

// close gives back what open acquired.
func (d *sluiced) close() error {
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i]())
	}
	d.undo = nil
	return errors.Join(errs...)
}

func (d *sluiced) openStore(ctx context.Context) error {
	if err := os.MkdirAll(d.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("state dir: %w", err)
	}
	if err := ownStateDir(d.cfg.StateDir); err != nil {
		return err
	}
	db, err := store.Open(ctx, d.cfg.StateDir)
	if err != nil {
		return err
	}
	d.store = db
	d.acquired(db.Close)
	return nil
}

func (d *sluiced) openKernel(context.Context) error {
	mounted, err := mountBPFFS(d.cfg.PinDir)
	if err != nil {
		return err
	}
	if mounted {
		d.log.Info("mounted the BPF file system", "at", bpffsMount)
		d.acquired(unmountBPFFS)
	}
	d.hooks, err = bpf.Load(bpf.Options{PinDir: d.cfg.PinDir, MaxFlows: d.cfg.MaxFlows, FailOpen: d.cfg.FailOpen, Strict: d.cfg.Guard == guardStrict})
	if errors.Is(err, bpf.ErrLocked) {
		return fmt.Errorf("%w: stop that one, or set another pin_dir in the configuration", err)
	}
	if err != nil {
		return err
	}
	d.acquired(d.leaveKernel)
	if d.hooks.Adopted() {
		d.log.Info("took over the hooks of an earlier daemon", "pin_dir", d.cfg.PinDir)
	}
	return nil
}

// leaveKernel keeps the hooks of what is attached, or would be if it were there, so that it
// stays closed. If nothing is, nothing of sluice is left in the kernel.
func (d *sluiced) leaveKernel() error {
	attached, err := d.hooks.Attachments()
	if err == nil && len(attached) == 0 && !d.hooks.Vigilant() {
		removeScopeParent()
		return d.hooks.Remove()
	}
	return errors.Join(err, d.hooks.Close())
}

func (d *sluiced) openPools(ctx context.Context) error {
	probes := d.cfg.Pool.ProbeInterval
	if probes == 0 {
		probes = -1 // the keeper's word for never
	}
	roots, err := upstreamRoots(d.cfg.UpstreamRoots)
	if err != nil {
		return err
	}
	d.keep, err = pool.NewKeeper(ctx, pool.Options{
		HTTP:  pool.TokenClient(roots),
		Store: d.store, Vault: d.secrets, Log: d.log, MaxStatedRetry: d.cfg.Pool.MaxStatedRetry, ProbeInterval: probes,
		Permit: d.ca.Permit, MaxHeld: d.cfg.Pool.MaxHeld, Sources: d.sources, FetchInterval: d.cfg.Secrets.Interval,
	})
	if err != nil {
		return err
	}
	d.acquired(func() error { d.keep.Close(); return nil })
	return nil
}

func (d *sluiced) openAuthority(context.Context) error {
	authority, err := ca.Open(filepath.Join(d.cfg.StateDir, "ca"), time.Now)
	if err != nil {
		return err
	}
	d.ca = &permitting{Authority: authority}
	d.acquired(func() error { authority.Close(); return nil })
	return nil
}

// permitBound has a CA for all that is bound. What is attached is told when it is taken over.
func (d *sluiced) permitBound(context.Context) error {
	_, err := d.ca.Authority.Permit(d.keep.Hosts())
	d.warnOfEarly()
	return err
}

// warnOfEarly says of each CA that is not valid yet what is to be done.
func (d *sluiced) warnOfEarly() {
	for _, c := range d.ca.Early() {
		d.log.Warn("a CA is not valid yet: the clock was ahead when it was made, or is behind now. Set the clock if it is wrong; if it is right, "+
			"start the agents again: they do not trust the CA's successor", "ca", c.Subject.CommonName, "valid_from", c.NotBefore)
	}
}

func (d *sluiced) openInterceptor(context.Context) error {
	roots, err := upstreamRoots(d.cfg.UpstreamRoots)
	if err != nil {
		return err
	}
	events, err := d.hooks.Events()
	if err != nil {
		return err
	}
	scopes := newReaper(d.log)
	scopes.clearAll()
	d.acquired(scopes.close)
	dialer := intercept.NewDialer(d.cfg.VanishedAfter)
	repeats := &echoes{note: d.note, log: d.log}
	files, err := intercept.OpenFiles()
	if err != nil {
		return errors.Join(err, events.Close())
	}
	d.exchange, err = exchange.New(exchange.Options{
		Pools: d.keep, Ties: d.keep, Tokens: d.keep, Dialer: dialer, Leaves: d.ca.Authority, RootCAs: roots, Log: d.log, Denied: d.denied,
		Echoed:              func(x exchange.Echoed) { repeats.seen(x.Pool, x.Member, x.Host, x.Cut) },
		RefuseUnknownTokens: d.cfg.RefuseTokens, MaxReplayBody: d.cfg.Replay.MaxBody, ReplayBudget: keepable(d.cfg.Replay.Budget, debug.SetMemoryLimit(-1)), MaxIdle: files.Idle,
	})
	if err != nil {
		return errors.Join(err, events.Close())
	}
	var keep intercept.FDStore // nil, and no pointer that is
	if d.fds != nil {
		keep = d.fds
	}
	d.in, err = intercept.New(intercept.Options{
		Lacking: bpf.Lacking(), Hooks: d.hooks, Listeners: d.hooks, Flows: d.hooks, Events: events, Routes: d.keep, Exchange: d.exchange, Dialer: dialer,
		Memory: newTargetMemory(d.store, d.record, scopes), Containers: d.finder, Vigils: d.hooks, Log: d.log, Drain: d.cfg.DrainTime, Denied: d.denied,
		Trust: newConfidant(d.ca.Authority, d.log), FDStore: keep,
		Guard: d.hooks, GuardName: guardName(d.cfg.PinDir), GuardBackend: guardBackend(d.cfg), GuardVolatile: d.cfg.FailOpen,
	})
	if err != nil {
		return errors.Join(err, events.Close(), d.exchange.Shutdown(context.Background()))
	}
	d.ca.in = d.in
	return nil
}

// authorityCheck is how often it is looked whether a CA is near its end.
const authorityCheck = 24 * time.Hour

// renewAuthority has each CA followed by its successor in time, however long the
// daemon runs without a change of what is bound.
func (d *sluiced) renewAuthority(ctx context.Context) error {
	ticker := time.NewTicker(authorityCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		switch changed, err := d.ca.Authority.Permit(d.keep.Hosts()); {
		case err != nil:
			d.log.Error("the CA cannot be renewed", "error", err)
		case changed:
			d.log.Info("the CA has a successor")
			d.in.Confide(ctx)
		}
		d.warnOfEarly()
	}
}

// denied notes a request that was refused lest a credential went astray.
func (d *sluiced) denied(x exchange.Denial) {
	told, untold := d.refused.next(x.Pool, time.Now())
	if !told {
		return
	}
	detail := fmt.Sprintf("%s asked for %q", x.Host, x.Sent)
	if untold > 0 {
		detail += fmt.Sprintf("; %d before it were not written down", untold)
	}
	d.log.Warn("request denied", "pool", x.Pool, "host", x.Host, "sent", x.Sent, "reason", x.Reason, "not_told", untold)
	d.note(pool.Event{Kind: pool.EventDenied, Pool: x.Pool, Reason: x.Reason, Detail: detail})
}

// through is what the exchange has done, for the metrics.
func (d *sluiced) through() carried {
	c := d.exchange.Snapshot()
	t := carried{
		replays: c.Replays, bytes: c.ReplayBytes, answers: c.Added.Count, sum: c.Added.Sum.Seconds(),
		below: make(map[float64]uint64, len(c.Added.Below)),
	}
	for end, n := range c.Added.Below {
		t.below[end.Seconds()] = n
	}
	return t
}

func (d *sluiced) openAPI(context.Context) error {
	b := build()
	d.ops = control.New(control.Options{
		Pools: d.keep, Members: d.keep, Credentials: d.keep, Events: d.keep, Placeholders: d.keep,
		AuthResetTargets: d.keep, Resets: d.resets,
		Targets: d.in, Trust: newConfidant(d.ca.Authority, d.log), Kernel: counted{d.hooks, d.in}, Authority: d.ca,
		Build:    control.Build{Version: b.Version, Commit: b.Commit, Date: b.Date, Go: b.Go},
		StateDir: d.cfg.StateDir, PinDir: d.cfg.PinDir, Note: d.note, Log: d.log,
	})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(
		control.NewCollector(d.ops), newTraffic(d.keep, d.through, d.backlog), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	var metrics http.Handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	var err error
	d.api, err = api.New(api.Options{Operations: d.ops, Metrics: metrics, Log: d.log})
	return err
}

// run serves until ctx ends and what is being served has ended, or the drain
// time is over.
func (d *sluiced) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.in.Run(ctx) })
	group.Go(func() error { return d.writeNotes(ctx) })
	group.Go(func() error { return d.runNotices(ctx) })
	group.Go(func() error {
		select {
		case <-d.in.Ready(): // agents are reset in what is attached, and the remembered targets are by now
			return d.resets.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error { return d.renewAuthority(ctx) })
	if d.tidy {
		group.Go(func() error { keepTidy(ctx); return nil })
	}
	group.Go(func() error { return d.serveTCP(ctx) })
	group.Go(func() error {
		select {
		case <-d.in.Ready():
		case <-ctx.Done():
			return nil
		}
		d.log.Info("listening", "socket", d.cfg.Socket, "state_dir", d.cfg.StateDir, "targets", len(d.in.Targets()))
		d.notify(daemon.SdNotifyReady)
		return d.api.Serve(ctx, d.sock, apiGrace)
	})
	group.Go(func() error {
		select {
		case <-d.in.Ready():
			return d.watchdog(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error {
		<-ctx.Done()
		d.log.Info("stopping", "drain_time", d.cfg.DrainTime)
		d.notify(daemon.SdNotifyStopping)
		return nil
	})
	return group.Wait()
}

// counted adds what happened to connections in user space to what the kernel counts.
type counted struct {
	*bpf.Redirect
	in *intercept.Interceptor
}

// Counters are counts by cause.
func (c counted) Counters() (map[string]uint64, error) {
	all := make(map[string]uint64)
	kernel, err := c.Redirect.Counters()
	if err != nil {
		return nil, err
	}
	for cause, n := range kernel {
		all["bpf."+cause] = n
	}
	text, err := json.Marshal(c.in.Counters())
	if err != nil {
		return nil, err
	}
	var own map[string]uint64
	if err := json.Unmarshal(text, &own); err != nil {
		return nil, err
	}
	for cause, n := range own {
		all["intercept."+cause] = n
	}
	return all, nil
}
