package intercept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/exchange"
	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/splice"
)

// Hooks puts the programs on cgroups and takes them off. *bpf.Redirect is one.
type Hooks interface {
	// Attach is idempotent, and leaves nothing behind when it fails.
	Attach(cgroupPath string) error
	// Detach takes them off. The error matches [bpf.ErrNotAttached] if there are none.
	Detach(cgroupPath string) error
	// DetachID is Detach for a cgroup that has no path any more.
	DetachID(cgroupID uint64) error
	// Attachments are the cgroups that carry programs of ours, by the kernel's word.
	Attachments() ([]bpf.Attachment, error)
	// Missing are the hooks that are not in force on the cgroup that is there now; Attach puts them back.
	Missing(cgroupPath string) ([]string, error)
}

// Listeners is the map of listeners by network namespace. *bpf.Redirect is one.
type Listeners interface {
	// SetListener publishes the listeners of a network namespace: from then on the
	// programs redirect to them.
	SetListener(cookie uint64, l bpf.Listener) error
	// DeleteListener withdraws them; connects from there are refused.
	DeleteListener(cookie uint64) error
	// Listeners are all that are published, those of a former run included.
	Listeners() (map[uint64]bpf.Listener, error)
}

// Flows are the redirected connections and what is redirected. *bpf.Redirect is one.
type Flows interface {
	// SetPorts replaces the set of redirected TCP ports without a gap.
	SetPorts(ports []uint16) error
	// Take returns and deletes the original destination of an accepted connection.
	Take(cookie uint64, peer, local netip.AddrPort) (bpf.Flow, bool, error)
	// Sweep deletes flows that nobody took.
	Sweep(olderThan time.Duration) (removed int, err error)
	// SharesRefused is how many connects of each target were refused, by cgroup id, because it had as many flows as it may.
	SharesRefused() (map[uint64]uint64, error)
}

// Vigils keeps cgroups from bound ports while they carry no programs. *bpf.Redirect is one.
type Vigils interface {
	// SetVigils makes these the cgroups, and no others, whether they are there now or not.
	SetVigils(cgroupPaths []string) error
}

// Events tell of processes that have no listener in their network namespace.
type Events interface {
	// Read blocks for the next one; it fails for good once Close was called.
	Read() (bpf.EventNoListener, error)
	Close() error
}

// Options are what an Interceptor works with. Hooks to Memory must be given; the zero
// value of the rest means what its comment says.
type Options struct {
	// Lacking is what the kernel lacks that every target needs: Attach gives it to whoever asks, and attaches nothing. nil: nothing.
	Lacking   error
	Hooks     Hooks
	Listeners Listeners
	Flows     Flows
	Events    Events // closed when Run ends
	Routes    Routes
	Exchange  Exchange
	Dialer    *Dialer // the one that Exchange dials with
	Memory    Memory
	// Vigils refuses what is made again in a target's place before we come to it. nil: that is let through.
	Vigils Vigils
	// Guard judges packets on the links of targets' namespaces. nil: nobody does.
	Guard Guard
	// GuardName is what is known by in namespaces what is not pinned. Empty: guard.DefaultName.
	GuardName string
	// GuardBackend is by what it does. Empty: the best that the kernel has.
	GuardBackend guard.Backend
	// GuardVolatile leaves no guard that outlives this process.
	GuardVolatile bool
	// Containers finds containers. nil: they cannot be attached by name.
	Containers Containers
	// FDStore keeps the listeners while no daemon runs. nil: connects are refused meanwhile.
	FDStore FDStore
	// Trust is told of each process of a target that others can be reached by. nil: nobody is.
	Trust Trust

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now
	// Denied is told of each plain HTTP request for a bound host, from several goroutines
	// at a time. nil: nobody is.
	Denied func(exchange.Denial)

	// Silence is how long a client may say nothing before the server is given the
	// chance to speak first. 0: 300 ms.
	Silence time.Duration
	// HelloTimeout is how long a client may take for its ClientHello or HTTP head, from
	// the first byte. 0: 10 s.
	HelloTimeout time.Duration
	// Idle is how long both sides may say nothing at the beginning. 0: 30 s.
	Idle time.Duration
	// DialTimeout limits the connect to an original destination. 0: 30 s.
	DialTimeout time.Duration
	// Drain is how long open connections may go on after Run's context is done. 0: 10 s.
	Drain time.Duration
	// Look is how often the kernel is asked whether the targets' programs are in force. 0: 5 s.
	Look time.Duration
	// MaxConns is how many connections are served at a time; further ones wait in the
	// listeners' backlogs. The last 64 (an eighth, if that is less) are for targets that have few: others' are reset. 0: as many as RLIMIT_NOFILE has descriptors for.
	MaxConns int
	// MaxNamespaces is in how many network namespaces a target has listeners at a time; connects in further ones are
	// refused. 0: 512, of the 4,096 that all targets together may have.
	MaxNamespaces int
	// TrustTimeout is how long Trust's look at a target's files is waited for; it goes on then, by itself. 0: 20 s.
	TrustTimeout time.Duration
}

const (
	sweepEvery = 30 * time.Second
	sweepAge   = time.Minute
	retryPorts = time.Second
)

// Interceptor owns the targets, the listeners and the connections.
type Interceptor struct {
	opts      Options
	count     counters
	starving  starving
	refusedAt atomic.Int64  // when it was last logged that a target has too many connections, in nanoseconds of Unix time
	buffers   sync.Pool     // *[]byte of firstPeek bytes
	slots     chan struct{} // one for each connection served
	pipes     *splice.Pipes
	ready     chan struct{}
	links     *guard.Guard  // nil: links are not guarded
	moved     chan struct{} // new namespaces are to be looked for

	live context.Context // ends when Run's context does: no new work
	halt context.CancelFunc
	conn context.Context // ends when the drain time is over: the connections' context
	cut  context.CancelFunc

	tasks sync.WaitGroup // accept loops, watches of cgroups and processes
	conns sync.WaitGroup

	// ops serialises what changes targets and spaces; the data path never takes it.
	ops sync.Mutex
	// behind is taken before ops by what a target's processes bring about as often as they like, so that one such thing at
	// most is ahead of what somebody waits for.
	behind      sync.Mutex
	stopped     bool               // under ops
	preceded    atomic.Uint64      // attaches that have begun
	unlook      context.CancelFunc // ends the watch of containers; under ops
	vigilFailed string             // what was logged of it last, empty when it works; under ops
	kept        map[uint64]*kept   // listeners of an earlier daemon that are not in use yet, by cookie; under ops

	mu      sync.RWMutex // held briefly
	targets map[string]*target
	spaces  map[uint64]*space
	owners  map[uint64]*target // cgroup id -> nearest attached target: a cache
}

// New makes an Interceptor. Nothing happens until Run.
func New(opts Options) (*Interceptor, error) {
	if opts.Hooks == nil || opts.Listeners == nil || opts.Flows == nil || opts.Events == nil || opts.Routes == nil ||
		opts.Exchange == nil || opts.Dialer == nil || opts.Memory == nil {
		return nil, errors.New("intercept: an option that has no default is missing")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&opts.Silence, 300 * time.Millisecond},
		{&opts.HelloTimeout, 10 * time.Second},
		{&opts.Idle, 30 * time.Second},
		{&opts.DialTimeout, 30 * time.Second},
		{&opts.Drain, 10 * time.Second},
		{&opts.Look, lookEvery},
		{&opts.TrustTimeout, 20 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	files, err := OpenFiles()
	if err != nil {
		return nil, err
	}
	if opts.MaxConns == 0 {
		opts.MaxConns = files.Conns
	}
	if opts.MaxNamespaces == 0 {
		opts.MaxNamespaces = 512
	}
	in := &Interceptor{
		opts:    opts,
		slots:   make(chan struct{}, opts.MaxConns),
		pipes:   splice.NewPipes(files.Pipes),
		ready:   make(chan struct{}),
		targets: make(map[string]*target),
		spaces:  make(map[uint64]*space),
		owners:  make(map[uint64]*target),
		kept:    make(map[uint64]*kept),
	}
	in.buffers.New = func() any {
		b := make([]byte, firstPeek)
		return &b
	}
	in.moved = make(chan struct{}, 1)
	in.links = in.newLinks()
	in.live, in.halt = context.WithCancel(context.Background())
	in.conn, in.cut = context.WithCancel(context.Background())
	return in, nil
}

// Run restores the targets that Memory holds and then works until ctx is done. Then no
// connection is accepted any more (with an FDStore, new ones wait for the next Run), the open ones get Options.Drain to end, and Run
// returns when all of its goroutines have ended. The programs stay on the cgroups, so that
// bound ports stay closed until the next Run; Detach takes them off. Run is called once.
func (in *Interceptor) Run(ctx context.Context) error {
	defer in.cut()
	err := in.restore(ctx)
	if err == nil {
		in.tasks.Go(in.followEvents)
		in.tasks.Go(in.followPorts)
		in.tasks.Go(in.sweep)
		in.tasks.Go(in.look)
		in.tasks.Go(in.followLinks)
		in.tasks.Go(in.followWays)
		close(in.ready)
		<-ctx.Done()
	}
	return errors.Join(err, in.shutdown())
}

// Ready is closed once the targets of the last run are attached again and have their
// listeners.
func (in *Interceptor) Ready() <-chan struct{} { return in.ready }

// Counters is a snapshot of what happened since the start.
func (in *Interceptor) Counters() Counters { return in.count.snapshot() }

// Connections is how many connections are open now, of all targets.
func (in *Interceptor) Connections() int { return len(in.slots) }

// restore attaches the remembered targets again, and takes back what a former run left
// for targets and namespaces that are not there any more.
func (in *Interceptor) restore(ctx context.Context) error {
	if err := in.opts.Flows.SetPorts(in.opts.Routes.Ports()); err != nil {
		return fmt.Errorf("set the redirected ports: %w", err)
	}
	remembered, err := in.opts.Memory.List(ctx)
	if err != nil {
		return fmt.Errorf("read the remembered targets: %w", err)
	}
	in.ops.Lock()
	defer in.ops.Unlock()
	if err := in.inherit(); err != nil {
		return err
	}
	defer in.discardKept()
	for _, t := range remembered {
		if err := in.recall(ctx, t); err != nil {
			return err
		}
	}
	in.keepVigil()
	return errors.Join(in.dropStrayHooks(), in.dropStrayListeners(), in.dropStrayGuards())
}

// dropStrayHooks takes the programs off cgroups that no target stands for.
func (in *Interceptor) dropStrayHooks() error {
	attachments, err := in.opts.Hooks.Attachments()
	if err != nil {
		return fmt.Errorf("read the attached cgroups: %w", err)
	}
	for _, a := range attachments {
		if in.claimed(a) {
			continue
		}
		in.opts.Log.Info("programs of a former run taken off", "cgroup_id", a.CgroupID)
		if err := in.opts.Hooks.DetachID(a.CgroupID); err != nil {
			return fmt.Errorf("take the programs of a former run off cgroup %d: %w", a.CgroupID, err)
		}
	}
	return nil
}

// dropStrayListeners withdraws the ports of a former run. Left there, they would keep the
// programs from telling of a namespace that has no listener now.
func (in *Interceptor) dropStrayListeners() error {
	published, err := in.opts.Listeners.Listeners()
	if err != nil {
		return fmt.Errorf("read the published listeners: %w", err)
	}
	for cookie := range published {
		in.mu.RLock()
		_, ours := in.spaces[cookie]
		in.mu.RUnlock()
		if ours {
			continue
		}
		if err := in.opts.Listeners.DeleteListener(cookie); err != nil {
			return fmt.Errorf("withdraw the listener of a former run: %w", err)
		}
	}
	return nil
}

// recall brings one remembered target back. What is wrong with one does not keep the
// others, or the daemon, from starting: it shows in the target's state.
func (in *Interceptor) recall(ctx context.Context, remembered Target) error {
	id, err := cgroup.ID(remembered.Cgroup)
	if remembered.Kind == KindRun && (err != nil || id != remembered.CgroupID) {
		if err := in.opts.Memory.Delete(ctx, remembered.ID); err != nil {
			return fmt.Errorf("forget target %s, which has ended: %w", remembered.ID, err)
		}
		return nil
	}
	t := in.newTarget(remembered)
	in.register(t)
	switch {
	case t.Kind == KindSelector:
		t.State = StateWatching
	case t.Cgroup == "":
		t.State, t.Reason = StateWaiting, notRunning
	default:
		_ = in.raise(ctx, t, anyOf(t))
	}
	in.accompany(t)
	if t.Kind == KindSelector || t.Kind == KindContainer {
		in.lookOut(false)
	}
	return nil
}

// claimed tells whether a target stands for what the kernel has attached.
func (in *Interceptor) claimed(a bpf.Attachment) bool {
	in.mu.RLock()
	defer in.mu.RUnlock()
	if !a.Live {
		return false
	}
	for _, t := range in.targets {
		if t.CgroupID == a.CgroupID {
			return true
		}
	}
	return false
}

// Targets lists the targets, oldest first, in the state that the kernel has them in now.
func (in *Interceptor) Targets() []Target {
	in.mu.RLock()
	list := make([]Target, 0, len(in.targets))
	for _, t := range in.targets {
		list = append(list, in.show(t))
	}
	in.mu.RUnlock()
	for i, t := range list {
		list[i] = in.judge(t)
	}
	slices.SortFunc(list, func(a, b Target) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// show is the plain value of a target. The caller holds mu.
func (in *Interceptor) show(t *target) Target {
	out := t.Target
	out.Pools = slices.Clone(t.Pools)
	out.Connections = int(t.open.Load())
	out.Namespaces = []uint64{}
	for cookie, s := range in.spaces {
		if s.users[t.ID] {
			out.Namespaces = append(out.Namespaces, cookie)
		}
	}
	slices.Sort(out.Namespaces)
	out.Older, out.Guard = slices.Clone(t.Older), in.guardedBy(t)
	return out
}

// owner finds the target that a socket's cgroup belongs to: the attached cgroup nearest
// above it. The answer is cached until the targets change; ids are never reused.
func (in *Interceptor) owner(cgroupID uint64) (*target, bool) {
	in.mu.RLock()
	t, ok := in.owners[cgroupID]
	in.mu.RUnlock()
	if ok {
		return t, true
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, t := range in.targets {
		if t.State == StateAttached && t.CgroupID == cgroupID {
			in.owners[cgroupID] = t
			return t, true
		}
	}
	path, err := cgroup.PathOf(cgroupID)
	if err != nil {
		return nil, false
	}
	if t = in.nearest(path); t == nil {
		return nil, false
	}
	const most = 4096 // leaves come and go: begin anew now and then
	if len(in.owners) >= most {
		clear(in.owners)
	}
	in.owners[cgroupID] = t
	return t, true
}

// nearest is the attached target with the longest path at or above path, or nil. The
// caller holds mu.
func (in *Interceptor) nearest(path string) *target {
	var best *target
	for _, t := range in.targets {
		if t.State == StateAttached && cgroup.Within(path, t.Cgroup) && (best == nil || len(t.Cgroup) > len(best.Cgroup)) {
			best = t
		}
	}
	return best
}

// followPorts keeps the redirected ports in step with the bindings.
func (in *Interceptor) followPorts() {
	for {
		changed := in.opts.Routes.PortsChanged()
		var retry <-chan time.Time
		if err := in.opts.Flows.SetPorts(in.opts.Routes.Ports()); err != nil {
			in.opts.Log.Error("redirected ports not set", "error", err)
			retry = time.After(retryPorts)
		}
		in.refreshGuards()
		select {
		case <-changed:
		case <-retry:
		case <-in.live.Done():
			return
		}
	}
}
