package intercept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// space is a network namespace that we listen in. It lasts as long as a process of an
// attached cgroup is in it, or a target has it prepared for one.
type space struct {
	home  *home
	v4    *net.TCPListener
	v6    *net.TCPListener // nil where the namespace has no ::1
	done  chan struct{}    // closed when the space is given up
	inode uint64
	links *guard.Links // nil where there is no guard
	ports bpf.Listener // as published: under ops

	users  map[string]bool // ids of the targets with a process here: under Interceptor.mu
	pins   map[string]bool // ids of the targets that it was prepared for: under ops
	holder *process        // whose end makes us look whether others are left: under ops
}

// scan gives each namespace that a target's processes are in its listeners, up to Options.MaxNamespaces. A process
// that ends meanwhile is no error, nor is a namespace in which nobody can listen, if there is one in which we do: an agent
// makes what namespaces it likes, and the others of its target are not to suffer. The caller holds ops.
func (in *Interceptor) scan(ctx context.Context, t *target) error {
	return in.each(t, func(pid int) error { return in.adopt(ctx, pid) })
}

// search is scan for who does not hold ops: others that wait for it come in between.
func (in *Interceptor) search(t *target) error {
	return in.each(t, func(pid int) error {
		in.ops.Lock()
		defer in.ops.Unlock()
		if in.stopped {
			return nil
		}
		return in.adopt(in.live, pid)
	})
}

// each calls adopt for a process in each namespace of a target's that has no listener.
func (in *Interceptor) each(t *target, adopt func(pid int) error) error {
	in.mu.RLock()
	path := t.Cgroup
	in.mu.RUnlock()
	pids, err := cgroup.Processes(path)
	if err != nil {
		return err
	}
	known := make(map[uint64]bool)
	for _, s := range in.allSpaces() {
		in.mu.RLock()
		if s.users[t.ID] {
			known[s.inode] = true
		}
		in.mu.RUnlock()
	}
	var first error
	failed := 0
	for _, pid := range pids {
		inode, err := netnsInode(pid)
		if err != nil || known[inode] {
			continue
		}
		err = adopt(pid)
		if errors.Is(err, errCrowded) {
			break
		}
		if err != nil {
			if failed++; failed == 1 {
				first = err
			}
		}
		known[inode] = true
	}
	if failed == 0 || !in.listens(t) {
		return first
	}
	in.opts.Log.Error("namespaces without listener: their connects are refused", "target", t.ID, "namespaces", failed, "error", first)
	return nil
}

// listens tells whether a target has a listener anywhere.
func (in *Interceptor) listens(t *target) bool {
	in.mu.RLock()
	defer in.mu.RUnlock()
	for _, s := range in.spaces {
		if s.users[t.ID] {
			return true
		}
	}
	return false
}

// errCrowded says that a target has as many namespaces as it may have.
var errCrowded = errors.New("the target has listeners in as many network namespaces as one may have")

// crowded tells whether a target may have no further namespace, which is logged once each time that it comes to that: a program
// makes as many as it likes, and the map of listeners is everybody's. The caller holds ops.
func (in *Interceptor) crowded(t *target) bool {
	used := 0
	in.mu.RLock()
	for _, s := range in.spaces {
		if s.users[t.ID] {
			used++
		}
	}
	in.mu.RUnlock()
	full := used >= in.opts.MaxNamespaces
	if full && !t.crowded {
		in.opts.Log.Error("connects in further network namespaces are refused", "target", t.ID, "namespaces", used, "error", errCrowded)
	}
	t.crowded = full
	return full
}

// adopt gives the namespace of a process listeners, if the process is in an attached
// cgroup: somebody outside cannot make us listen anywhere. The error matches errCrowded. The caller holds ops.
func (in *Interceptor) adopt(ctx context.Context, pid int) error {
	p, err := openProcess(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	t, ns, err := in.inspect(p)
	if err != nil || t == nil {
		p.close()
		return err
	}
	in.mu.RLock()
	known := in.spaces[ns.Cookie()] != nil
	in.mu.RUnlock()
	if !known && in.crowded(t) {
		ns.Close()
		p.close()
		return errCrowded
	}
	s, err := in.open(ctx, ns)
	if err != nil {
		p.close()
		return fmt.Errorf("listen in the network namespace of process %d: %w", pid, err)
	}
	in.use(s, t)
	if s.holder == nil {
		in.hold(s, p)
	} else {
		p.close()
	}
	return nil
}

// inspect finds the target and the namespace of a process; the target is nil when the
// process belongs to none, or has ended.
func (in *Interceptor) inspect(p *process) (*target, *netns.NS, error) {
	path, err := cgroup.OfPID(p.pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, cgroup.ErrGone) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	in.mu.RLock()
	t := in.nearest(path)
	in.mu.RUnlock()
	if t == nil {
		return nil, nil, nil
	}
	ns, err := netns.OfPID(p.pid)
	if !p.alive() {
		if err == nil {
			ns.Close()
		}
		return nil, nil, nil
	}
	return t, ns, err
}

// prepare opens the namespace of the process that is going to start a run's command.
func (in *Interceptor) prepare(ctx context.Context, t *target) error {
	ns, err := netns.OfPID(t.pid)
	if err != nil {
		return err
	}
	s, err := in.open(ctx, ns)
	if err != nil {
		return fmt.Errorf("listen in the network namespace of process %d: %w", t.pid, err)
	}
	s.pins[t.ID] = true
	in.use(s, t)
	return nil
}

// stays tells whether a target's first process, and any later one, finds a listener in the host's own
// namespace: it comes into its cgroup from there as a rule, without anything that would tell us in time. In another
// namespace it would be kept alive by what we hold, whoever deletes it.
func (t *target) stays() bool {
	return t.Kind == KindCgroup || t.Kind == KindPID || t.Kind == KindUnit
}

// await has a listener in our own namespace for a target without a process. The caller holds ops.
func (in *Interceptor) await(ctx context.Context, t *target) error {
	if !t.stays() {
		return nil
	}
	for _, s := range in.allSpaces() {
		in.mu.RLock()
		used := s.users[t.ID]
		in.mu.RUnlock()
		if used {
			return nil
		}
	}
	ns, err := netns.Current()
	if err != nil {
		return err
	}
	s, err := in.open(ctx, ns)
	if err != nil {
		return fmt.Errorf("listen in this process's network namespace: %w", err)
	}
	s.pins[t.ID] = true
	in.use(s, t)
	return nil
}

// stay has a listener in our own namespace outlast the last process of the targets that used it, until they are
// detached. The caller holds ops.
func (in *Interceptor) stay(s *space) {
	if !s.home.ns.Own() {
		return
	}
	for _, t := range in.allTargets() {
		in.mu.RLock()
		if t.State == StateAttached && t.stays() && s.users[t.ID] {
			s.pins[t.ID] = true
		}
		in.mu.RUnlock()
	}
}

// open takes over ns, listens in it and publishes the ports, unless that has been done.
// The caller holds ops.
func (in *Interceptor) open(ctx context.Context, ns *netns.NS) (*space, error) {
	in.mu.RLock()
	s, ok := in.spaces[ns.Cookie()]
	in.mu.RUnlock()
	if ok {
		ns.Close()
		return s, nil
	}
	v4, v6, err := in.listen(ctx, ns)
	if err != nil {
		in.count.notAdopted.Add(1)
		ns.Close()
		return nil, err
	}
	s = &space{
		v4: v4, v6: v6, done: make(chan struct{}), inode: ns.Inode(),
		users: make(map[string]bool), pins: make(map[string]bool),
	}
	if in.links != nil {
		if s.links, err = in.links.Protect(ns); err != nil {
			in.count.notAdopted.Add(1)
			s.stopListening()
			in.forsake(ns.Cookie())
			ns.Close()
			return nil, err
		}
	}
	s.ports = bpf.Listener{Port4: port(v4), NoWay6: hasNoWay6(ns)}
	if v6 != nil {
		s.ports.Port6 = port(v6)
	}
	// Published only now that both accept.
	if err := in.opts.Listeners.SetListener(ns.Cookie(), s.ports); err != nil {
		in.count.notAdopted.Add(1)
		s.stopListening()
		in.forsake(ns.Cookie())
		err = errors.Join(fmt.Errorf("publish the listener: %w", err), s.unguard())
		ns.Close()
		return nil, err
	}
	s.home = in.opts.Dialer.add(ns)
	in.mu.Lock()
	in.spaces[ns.Cookie()] = s
	in.mu.Unlock()
	in.count.adopted.Add(1)
	in.tasks.Go(func() { in.accept(s, v4) })
	if v6 != nil {
		in.tasks.Go(func() { in.accept(s, v6) })
	}
	return s, nil
}

// unguard takes the guard off the links.
func (s *space) unguard() error {
	if s.links == nil {
		return nil
	}
	return s.links.Close()
}

func port(l *net.TCPListener) uint16 { return addrPort(l.Addr()).Port() }

func (s *space) stopListening() {
	_ = s.v4.Close()
	if s.v6 != nil {
		_ = s.v6.Close()
	}
}

func (in *Interceptor) use(s *space, t *target) {
	in.mu.Lock()
	defer in.mu.Unlock()
	s.users[t.ID] = true
}

// hold makes p the process whose end is waited for.
func (in *Interceptor) hold(s *space, p *process) {
	s.holder = p
	in.tasks.Go(func() {
		defer p.close()
		stop := context.AfterFunc(in.live, p.close)
		defer stop()
		if !p.ended() {
			return
		}
		in.behind.Lock()
		defer in.behind.Unlock()
		in.ops.Lock()
		defer in.ops.Unlock()
		if in.stopped || s.holder != p {
			return
		}
		s.holder = nil
		if err := in.review(s); err != nil {
			in.opts.Log.Error("listener not taken back", "error", err)
		}
	})
}

// reopen has a listener opened again that somebody destroyed, who has CAP_NET_ADMIN in its namespace (SOCK_DESTROY).
func (in *Interceptor) reopen(s *space) {
	in.behind.Lock()
	defer in.behind.Unlock()
	in.ops.Lock()
	defer in.ops.Unlock()
	in.mu.RLock()
	given := in.spaces[s.home.ns.Cookie()] != s
	in.mu.RUnlock()
	if given || in.stopped {
		return
	}
	// Whoever can do it can do it again and again: that is not to fill the log.
	in.opts.Log.Debug("a listener was destroyed in its network namespace: it is opened again", "netns", s.home.ns.Cookie())
	if s.holder != nil {
		s.holder.close()
		s.holder = nil
	}
	if err := in.withdraw(s); err != nil {
		in.opts.Log.Error("listener not taken back", "error", err)
	}
}

// occupant is a handle on a process if it is inside a space, or nil.
func (in *Interceptor) occupant(pid int, s *space) *process {
	if inode, err := netnsInode(pid); err != nil || inode != s.inode {
		return nil
	}
	p, err := openProcess(pid)
	if err != nil {
		return nil
	}
	// Asked again, now that the id cannot pass to another process unnoticed.
	if inode, err := netnsInode(pid); err != nil || inode != s.inode || !p.alive() {
		p.close()
		return nil
	}
	return p
}

func (in *Interceptor) allSpaces() []*space {
	in.mu.RLock()
	defer in.mu.RUnlock()
	list := make([]*space, 0, len(in.spaces))
	for _, s := range in.spaces {
		list = append(list, s)
	}
	return list
}
