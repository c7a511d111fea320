package reset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

const (
	// DefaultRetryFor is how long a runtime that is away is waited for.
	DefaultRetryFor = 10 * time.Minute
	// firstRetry and lastRetry bound the time between two tries.
	firstRetry, lastRetry = time.Second, 30 * time.Second
	// maxStarts is how many daemons may begin one reset: the one that was asked, and
	// one more if that was killed in the middle.
	maxStarts = 2
	// noticeLimit is how long a reset waits for the notice of the recovery to be out.
	noticeLimit = 5 * time.Second
	// answerLimit is how much longer than its commands the reset of one agent may take. Whatever is known to take long in
	// it has a limit of its own.
	answerLimit = 2 * time.Minute
	// planLimit is how long it may take to find out what would be run for one agent: somebody waits for it.
	planLimit = 10 * time.Second
	// maxPlanned is for how many agents that is found out at a time.
	maxPlanned = 16
	// endLimit is how long the end of what was begun may take when the daemon ends.
	endLimit = 15 * time.Second
	// ledgerRetry is how long after a failure to read or write it is tried again.
	ledgerRetry = time.Second
)

// errOff is of a pool that has no auth reset target.
var errOff = errors.New("has no auth_reset_target")

// Pools tells what pools are. Errors are *[pool.Error]; *pool.Keeper is one.
type Pools interface {
	PoolStatus(ctx context.Context, name string) (pool.PoolStatus, error)
}

// Ledger remembers, over restarts, which resets are due; *pool.Keeper does.
type Ledger interface {
	// RequestReset makes a reset due, unless one is, or nobody was told and onlyTold.
	RequestReset(ctx context.Context, name string, seq int64, onlyTold bool) (bool, error)
	DueResets(ctx context.Context) ([]pool.DueReset, error)
	// BeginReset counts a start.
	BeginReset(ctx context.Context, r pool.DueReset) error
	// EndReset ends a reset and writes its events, as a whole.
	EndReset(ctx context.Context, r pool.DueReset, done bool, events []pool.Event) error
}

// Options of [New]. Pools, Ledger, Agents and Runtimes are required.
type Options struct {
	Pools  Pools
	Ledger Ledger
	// Agents lists where the agents of a pool run that names no container.
	Agents func(pool string) []Agent
	// Runtimes reach the agents of each kind.
	Runtimes map[Kind]Runtime
	Profiles Profiles
	// Always resets even if no agent was told that the pool is exhausted.
	Always bool
	// Noticed waits until people have been told of the event with a seq, or ctx ends.
	// Default: does not wait.
	Noticed func(ctx context.Context, seq int64) error
	// RetryFor is how long a runtime that is away is waited for. Default: [DefaultRetryFor].
	RetryFor time.Duration
	Log      *slog.Logger // nil discards
}

// Resetter is a reader of the event log that resets the agents of a pool that
// recovered. A pool has one reset at a time: what recovers while one is under way
// starts no other.
type Resetter struct {
	opts Options
	wake chan struct{}
	done chan struct{} // closed when Run has ended

	mu      sync.Mutex
	busy    map[int64]bool            // by pool id: a reset is under way
	waiters map[string]chan []Outcome // of people, by pool
	silent  map[Agent]bool            // of whom a reset was given up, and is not back
}

// New makes a resetter; Run has to be called.
func New(opts Options) *Resetter {
	if opts.RetryFor == 0 {
		opts.RetryFor = DefaultRetryFor
	}
	if opts.Noticed == nil {
		opts.Noticed = func(context.Context, int64) error { return nil }
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Resetter{
		opts: opts, wake: make(chan struct{}, 1), done: make(chan struct{}),
		busy: make(map[int64]bool), waiters: make(map[string]chan []Outcome), silent: make(map[Agent]bool),
	}
}

// Name is the reader's in logs and in the store.
func (r *Resetter) Name() string { return "reset" }

// Deliver makes a reset due for each pool that recovered. It does not wait for it:
// from here on the ledger remembers.
func (r *Resetter) Deliver(ctx context.Context, events []pool.Event) error {
	for _, e := range events {
		if e.Kind != pool.EventRecovered {
			continue
		}
		p, err := r.opts.Pools.PoolStatus(ctx, e.Pool)
		if isGone(err) || (err == nil && p.AuthResetTarget == "") {
			continue
		}
		if err != nil {
			return err
		}
		due, err := r.opts.Ledger.RequestReset(ctx, e.Pool, e.Seq, !r.opts.Always)
		if err != nil && !isGone(err) {
			return err
		}
		if due {
			r.raise()
		}
	}
	return nil
}

func isGone(err error) bool {
	var known *pool.Error
	return errors.As(err, &known) && known.Code == pool.CodeNotFound
}

func (r *Resetter) raise() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run carries out what is due until ctx ends, what an earlier daemon left included.
// It returns when every command that it started has ended or been killed.
func (r *Resetter) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer close(r.done)
	defer running.Wait()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-retry.C:
		}
		due, err := r.claim(ctx)
		if err != nil && ctx.Err() == nil {
			r.opts.Log.Error("auth resets cannot be read", "error", err)
			retry.Reset(ledgerRetry)
		}
		for _, c := range due {
			running.Go(func() {
				r.carryOut(ctx, c.DueReset, c.waiter)
				r.release(c.DueReset)
			})
		}
	}
}

// claimed is a reset that is to be begun, and who waits for it, if anybody.
type claimed struct {
	pool.DueReset
	waiter chan<- []Outcome
}

// claim lists what is due and not under way. The lock is held from before it is read: what ends while it
// is would be listed as due, and be under way no more.
func (r *Resetter) claim(ctx context.Context) ([]claimed, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	due, err := r.opts.Ledger.DueResets(ctx)
	if err != nil {
		return nil, err
	}
	var all []claimed
	for _, d := range due {
		if r.busy[d.ID] {
			continue
		}
		r.busy[d.ID] = true
		c := claimed{DueReset: d}
		if d.Seq == 0 && r.waiters[d.Pool] != nil {
			c.waiter = r.waiters[d.Pool]
		}
		all = append(all, c)
	}
	return all, nil
}

// release lets the next reset of the pool begin.
func (r *Resetter) release(d pool.DueReset) {
	r.mu.Lock()
	delete(r.busy, d.ID)
	r.mu.Unlock()
	r.raise() // one may have become due since
}

// carryOut resets the agents of one pool and says what became of it.
func (r *Resetter) carryOut(ctx context.Context, d pool.DueReset, waiter chan<- []Outcome) {
	if d.Seq != 0 {
		r.awaitNotice(ctx, d.Seq)
	}
	outcomes := r.reset(ctx, d, waiter == nil)
	if ctx.Err() != nil {
		return // the ledger keeps it for the next daemon
	}
	done := true
	events := make([]pool.Event, 0, len(outcomes))
	for _, o := range outcomes {
		done = done && o.Succeeded()
		events = append(events, o.event(d.Pool))
		r.opts.Log.Info("auth reset", "pool", d.Pool, "agent", o.Agent.String(), "succeeded", o.Succeeded(), "reason", o.Reason)
	}
	for {
		err := r.opts.Ledger.EndReset(ctx, d, done, events)
		if err == nil {
			break
		}
		r.opts.Log.Error("the end of an auth reset cannot be written", "pool", d.Pool, "error", err)
		if sleep(ctx, ledgerRetry) != nil {
			break
		}
	}
	if waiter != nil {
		waiter <- outcomes
	}
}

// awaitNotice keeps the order in which things are said and done, as long as a channel
// that is down does not keep an agent from working.
func (r *Resetter) awaitNotice(ctx context.Context, seq int64) {
	ctx, cancel := context.WithTimeout(ctx, noticeLimit)
	defer cancel()
	if err := r.opts.Noticed(ctx, seq); err != nil {
		r.opts.Log.Debug("an auth reset begins before every channel has the notice", "seq", seq, "error", err)
	}
}

// reset resets each agent of the pool. If that was switched off since, or the pool is
// gone, there is no outcome; else there is at least one.
func (r *Resetter) reset(ctx context.Context, d pool.DueReset, patient bool) []Outcome {
	failed := func(reason string) []Outcome { return []Outcome{{Reason: reason}} }
	if d.Starts >= maxStarts {
		return failed(fmt.Sprintf("it was interrupted %d times by the end of the daemon", d.Starts))
	}
	orders, err := r.orders(ctx, d.Pool)
	if isGone(err) || errors.Is(err, errOff) {
		return nil
	}
	if err != nil {
		return failed(oneLine([]byte(err.Error())))
	}
	var begin sync.Once
	var beginErr error
	started := func() error {
		begin.Do(func() { beginErr = r.opts.Ledger.BeginReset(ctx, d) })
		return beginErr
	}
	outcomes := make([]Outcome, 0, len(orders))
	deadline := time.Now().Add(r.opts.RetryFor)
	for _, o := range orders {
		outcomes = append(outcomes, r.attempt(ctx, o, started, patient, deadline))
	}
	return outcomes
}

// attempt runs an order, and again as long as its runtime is away and there is time.
func (r *Resetter) attempt(ctx context.Context, o order, started func() error, patient bool, deadline time.Time) Outcome {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		limit := 2*o.profile.Timeout + answerLimit // its command and its check
		out := r.bounded(ctx, o.agent, limit, func(ctx context.Context) Outcome { return o.run(ctx, started) })
		if !patient || !errors.Is(out.err, ErrUnavailable) || time.Now().Add(pause).After(deadline) {
			return out
		}
		r.opts.Log.Warn("auth reset: the runtime is away", "agent", o.agent.String(), "error", out.err, "again_in", pause)
		if sleep(ctx, pause) != nil {
			return out
		}
	}
}

// bounded does what is to be done with an agent, and gives it up when that takes too long: an agent's file system may not
// answer, and who has asked one cannot be ended. Until that is back the agent is not asked again, and then nothing is begun
// any more.
func (r *Resetter) bounded(ctx context.Context, a Agent, most time.Duration, do func(context.Context) Outcome) Outcome {
	silent := Outcome{Agent: a, Reason: "its files do not answer"}
	r.mu.Lock()
	is := r.silent[a]
	r.mu.Unlock()
	if is {
		return silent
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended, back := make(chan Outcome, 1), false
	go func() {
		out := do(ctx)
		r.mu.Lock()
		back = true
		delete(r.silent, a)
		r.mu.Unlock()
		ended <- out
	}()
	limit := time.NewTimer(most)
	defer limit.Stop()
	stopped := ctx.Done()
	for {
		select {
		case out := <-ended:
			return out
		case <-stopped:
			stopped = nil
			limit.Reset(endLimit)
			continue
		case <-limit.C:
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if back {
			return <-ended
		}
		r.silent[a] = true
		return silent
	}
}

// orders are what is to be run for a pool, one for each agent.
func (r *Resetter) orders(ctx context.Context, name string) ([]order, error) {
	p, err := r.opts.Pools.PoolStatus(ctx, name)
	if err != nil {
		return nil, err
	}
	if p.AuthResetTarget == "" {
		return nil, errOff
	}
	profile, err := r.opts.Profiles.Find(p.AgentProfile)
	if err != nil {
		return nil, err
	}
	agents := []Agent{{Kind: InContainer, Ref: p.Container}}
	if p.Container == "" {
		agents = r.opts.Agents(name)
	}
	if len(agents) == 0 {
		return nil, &pool.Error{Code: pool.CodeConflict, Message: fmt.Sprintf(
			"pool %q names no container, and nothing is attached for it: there is no agent to reset", name)}
	}
	orders := make([]order, 0, len(agents))
	for _, a := range agents {
		orders = append(orders, order{agent: a, runtime: r.opts.Runtimes[a.Kind], profile: profile, target: p.AuthResetTarget})
	}
	return orders, nil
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
