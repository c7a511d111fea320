package intercept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/container"
)

// Containers finds containers and tells what becomes of them. *container.Finder is one.
type Containers interface {
	// Find returns the container that is meant, whether it runs or not.
	Find(ctx context.Context, q container.Query) (container.Container, error)
	// Watch begins with a list, and tells of changes until ctx is done. Then the channel is closed.
	Watch(ctx context.Context) <-chan container.Event
}

// Trust has the programs in a target trust our CA. That it cannot does not keep a target from
// being attached. It is called by one goroutine at a time for each target.
type Trust interface {
	// Install is called with a process in the target's mount namespace: at the attach, and each
	// time that the container was started again, before its command runs where that is possible.
	Install(ctx context.Context, t Target, pid int) error
	// Remove takes back what Install did for a target that is detached.
	Remove(ctx context.Context, t Target) error
}

// errNoContainers is for an interceptor that knows no containers.
var errNoContainers = fmt.Errorf("containers cannot be attached: %w", container.ErrUnavailable)

// findContainer completes v with the container that a request means, and tells its first process.
func (in *Interceptor) findContainer(ctx context.Context, r Request, v Target) (Target, int, error) {
	if in.opts.Containers == nil {
		return v, 0, errNoContainers
	}
	c, err := in.opts.Containers.Find(ctx, container.Query{Name: r.Container, Namespace: r.Namespace})
	if err != nil {
		return v, 0, err
	}
	v.Ref = r.Container
	v.describe(c)
	v.Cgroup, err = cgroupOf(c)
	return v, c.PID, err
}

// describe notes which container a target stands for now.
func (t *Target) describe(c container.Container) {
	t.Container, t.ContainerID, t.Runtime, t.Namespace, t.PodNamespace = c.Name, c.ID, c.Runtime, c.Namespace, c.PodNamespace
	t.environ = c.Environment
}

// cgroupOf is the cgroup that a container is in, "" if it does not run. It is what the
// kernel says of its first process: a path in its specification would depend on who made it.
func cgroupOf(c container.Container) (string, error) {
	if c.PID == 0 {
		return "", nil
	}
	path, err := cgroup.OfPID(c.PID)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, cgroup.ErrGone) {
		return "", nil // it has just ended
	}
	if err == nil {
		path, err = cgroup.Validate(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("container %s: %w", c.Name, err)
	}
	return path, nil
}

// attachSelector remembers a selector, and waits for the list of containers, by which what it matches is attached, or for
// the word that there is none to be had.
func (in *Interceptor) attachSelector(ctx context.Context, r Request, v Target) (Target, error) {
	if in.opts.Containers == nil {
		return Target{}, errNoContainers
	}
	s, err := container.ParseSelector(r.Selector)
	if err != nil {
		return Target{}, err
	}
	v.Ref, v.Selector, v.Namespace = s.String(), s.String(), r.Namespace
	t, heard, err := in.addSelector(ctx, v)
	if err != nil {
		return Target{}, err
	}
	select {
	case <-heard:
	case <-ctx.Done():
	}
	for _, now := range in.allTargets() {
		if now.ID == t.ID {
			return in.present(now), nil
		}
	}
	return t, nil // somebody has just detached it
}

func (in *Interceptor) addSelector(ctx context.Context, v Target) (Target, <-chan struct{}, error) {
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.stopped {
		return Target{}, nil, ErrStopped
	}
	t, err := in.add(ctx, v, 0)
	if err != nil {
		return Target{}, nil, err
	}
	return t, in.lookOut(true), nil
}

// lookOut begins to follow containers, with a list; anew if it is wanted although they are
// followed already. heard is closed when the list was acted on, or it is known that there is none. The caller holds ops.
func (in *Interceptor) lookOut(anew bool) (heard <-chan struct{}) {
	if in.opts.Containers == nil || in.unlook != nil && !anew {
		return nil
	}
	if in.unlook != nil {
		in.unlook()
	}
	var ctx context.Context
	ctx, in.unlook = context.WithCancel(in.live)
	first := make(chan struct{})
	hear := sync.OnceFunc(func() { close(first) })
	in.tasks.Go(func() {
		defer hear()
		for e := range in.opts.Containers.Watch(ctx) {
			in.ops.Lock()
			if !in.stopped && ctx.Err() == nil {
				in.learn(ctx, e)
			}
			in.ops.Unlock()
			if e.Handled != nil {
				e.Handled()
			}
			if e.Change == container.Listed || e.Change == container.Away {
				hear()
			}
		}
	})
	return first
}

// notWatched is what is said of a selector while there is no containerd to ask.
const notWatched = "%s: no container is attached by this until it does; [containers] in the configuration says where it is"

// setSelectors says of each selector why nothing is attached by it; "": something may be.
func (in *Interceptor) setSelectors(reason string) {
	for _, t := range in.allTargets() {
		if t.Kind == KindSelector {
			in.setState(t, StateWatching, reason)
		}
	}
}

// learn acts on what has become of containers. The caller holds ops.
func (in *Interceptor) learn(ctx context.Context, e container.Event) {
	switch e.Change {
	case container.Away:
		in.setSelectors(fmt.Sprintf(notWatched, e.Why))
	case container.Listed:
		in.setSelectors("")
		there := make(map[string]bool)
		for _, c := range e.All {
			there[c.Namespace+" "+c.ID] = true
			if c.PID != 0 {
				in.arrive(ctx, c, c.PID, 0)
			}
		}
		for _, t := range in.allTargets() {
			if t.Kind == KindContainer && !there[t.Namespace+" "+t.ContainerID] {
				in.depart(ctx, t)
			}
		}
	case container.Starting:
		in.arrive(ctx, e.Container, 0, e.Container.PID)
	case container.Removed:
		for _, t := range in.allTargets() {
			if t.Kind == KindContainer && t.ContainerID == e.Container.ID && t.Namespace == e.Container.Namespace {
				in.depart(ctx, t)
			}
		}
	case container.Ended: // its cgroup goes, which is watched, but not always at once
		for _, t := range in.allTargets() {
			if t.Kind == KindContainer && t.ContainerID == e.Container.ID && t.Namespace == e.Container.Namespace {
				in.succeed(ctx, t)
			}
		}
	}
}

// arrive attaches a container that runs, if a target stands for it or a selector matches it. The CA is trusted by way of
// before, and only then the programs are put on; or by way of after, when they are: at a start, which is not held
// for ever, they come first. One of the two is 0.
func (in *Interceptor) arrive(ctx context.Context, c container.Container, before, after int) {
	for _, t := range in.allTargets() {
		if t.Kind == KindContainer && t.stands(c) {
			in.bring(ctx, t, c, before, after)
			return
		}
	}
	for _, s := range in.allTargets() {
		if s.Kind != KindSelector || s.Namespace != "" && s.Namespace != c.Namespace {
			continue
		}
		if by, err := container.ParseSelector(s.Selector); err != nil || !by.Matches(c) {
			continue
		}
		v := Target{Kind: KindContainer, Ref: c.Name, Selector: s.Selector, Parent: s.ID, Pools: s.Pools, Created: in.opts.Now()}
		v.describe(c)
		path, err := cgroupOf(c)
		if path == "" && err == nil {
			return // it has ended already
		}
		if v.Cgroup = path; err == nil {
			_, err = in.add(ctx, v, before)
		}
		if err == nil {
			in.confide(ctx, in.same(v), after)
		} else if ctx.Err() == nil {
			in.opts.Log.Error("a selector's container is not attached", "selector", s.Selector, "container", c.Name, "error", err)
		}
		return
	}
}

// stands tells whether a target is for a container, or for what it was before it was made anew.
func (t Target) stands(c container.Container) bool {
	was := container.Container{ID: t.ContainerID, Namespace: t.Namespace, Runtime: t.Runtime, Name: t.Container, PodNamespace: t.PodNamespace}
	return was.Same(c)
}

// bring attaches a container's target where the container is now; before and after are as for arrive.
func (in *Interceptor) bring(ctx context.Context, t *target, c container.Container, before, after int) {
	path, err := cgroupOf(c)
	if err == nil && path == "" {
		return // it has ended already
	}
	var id uint64
	if err == nil {
		id, err = cgroup.ID(path)
	}
	if err != nil {
		in.opts.Log.Error("container not attached", "target", t.ID, "container", c.Name, "error", err)
		return
	}
	now := in.present(t)
	attached := now.State == StateAttached
	switch {
	case attached && now.CgroupID == id:
		// The first process has its namespaces by now: it had not when the cgroup was made.
		if err := in.scan(ctx, t); err != nil && ctx.Err() == nil {
			in.opts.Log.Error("namespace without listener: its connects are refused", "target", t.ID, "error", err)
		}
		in.confide(ctx, t, max(before, after))
		return
	case attached && now.ContainerID != c.ID && populated(now.CgroupID):
		t.heir = &heir{c, id} // an older generation still runs: when it has ended, it is this one's turn
		return
	case attached:
		in.drop(t)
	}
	if other := in.nested(path, t.ID); other != nil {
		in.setState(t, StateFailed, fmt.Sprintf("its cgroup %s is target %s, or above or below it; detach that", path, other.ID))
		return
	}
	in.mu.Lock()
	t.describe(c)
	t.Cgroup, t.CgroupID = path, 0
	in.mu.Unlock()
	_ = in.raise(ctx, t, before)
	in.keepVigil()
	in.accompany(t)
	in.confide(ctx, t, after)
}

// heir is a container that waits for a target, and its cgroup.
type heir struct {
	container.Container
	cgroupID uint64
}

// succeed attaches what has waited for the end of its older generation, if it still runs. The caller holds ops.
func (in *Interceptor) succeed(ctx context.Context, t *target) {
	next := t.heir
	if next == nil {
		return
	}
	t.heir = nil
	path, err := cgroupOf(next.Container)
	if err != nil || path == "" {
		return
	}
	if id, err := cgroup.ID(path); err == nil && id == next.cgroupID { // else its process is another one by now
		in.bring(ctx, t, next.Container, next.PID, 0)
	}
}

func alive(cgroupID uint64) bool {
	_, err := cgroup.PathOf(cgroupID)
	return err == nil
}

// populated tells whether a cgroup is there and has processes: it may outlive them for a moment.
func populated(cgroupID uint64) bool {
	path, err := cgroup.PathOf(cgroupID)
	if err != nil {
		return false
	}
	pids, err := cgroup.Processes(path)
	return err == nil && len(pids) > 0
}

// depart takes note that a container was removed: a selector's target goes with it, another one waits.
func (in *Interceptor) depart(ctx context.Context, t *target) {
	if now := in.present(t); now.State == StateAttached && alive(now.CgroupID) {
		return // a list that was made before its namespace was
	}
	if t.Parent == "" {
		in.mu.Lock()
		if t.State == StateWaiting {
			t.Reason = "there is no such container now"
		}
		in.mu.Unlock()
		return
	}
	if err := in.detach(ctx, t); err != nil {
		in.opts.Log.Error("removed container not cleaned up", "target", t.ID, "error", err)
	}
}

// confide has a target's programs trust our CA.
func (in *Interceptor) confide(ctx context.Context, t *target, pid int) {
	if in.opts.Trust == nil || pid == 0 || t.Kind == KindRun {
		return
	}
	now := in.present(t)
	if now.State != StateAttached {
		return
	}
	p, err := openProcess(pid)
	if err == nil {
		defer p.close()
		if err = in.patiently(t, func() error { return in.opts.Trust.Install(ctx, now, pid) }); err != nil && !p.alive() {
			return // it has ended meanwhile, and what was to be told with it
		}
	}
	if err != nil && !errors.Is(err, unix.ESRCH) && ctx.Err() == nil {
		in.opts.Log.Warn("the CA is not trusted everywhere in a target", "target", t.ID, "error", err)
	}
}

// Confide has what is attached trust our CA, after that has changed.
func (in *Interceptor) Confide(ctx context.Context) {
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.stopped || in.opts.Trust == nil {
		return
	}
	for _, t := range in.allTargets() {
		if t.Kind == KindSelector || t.Kind == KindRun || t.Cgroup == "" {
			continue
		}
		in.confide(ctx, t, anyOf(t))
	}
}

// witness is the process by way of which a target's others are told whom to trust; 0: nobody is told. A container's is the
// one that its daemon names, pid: one that has just come into its cgroup may still be in the host's namespaces. A
// run's command is told by what starts it.
func witness(t *target, pid int) int {
	switch t.Kind {
	case KindContainer:
		return pid
	case KindRun:
		return 0
	}
	return anyOf(t)
}

// anyOf is a process of a target's; 0: there is none now.
func anyOf(t *target) int {
	if pids, err := cgroup.Processes(t.Cgroup); err == nil && len(pids) > 0 {
		return pids[0]
	}
	return 0
}

// distrust is confide's opposite.
func (in *Interceptor) distrust(t *target) error {
	if in.opts.Trust == nil || t.Kind == KindSelector || t.Kind == KindRun {
		return nil
	}
	now := in.present(t)
	if err := in.patiently(t, func() error { return in.opts.Trust.Remove(in.conn, now) }); err != nil {
		return fmt.Errorf("take the CA out of target %s: %w", t.ID, err)
	}
	return nil
}

// errNoEnd says that a target's files are not to be had: a file system of its own making, or one whose server is away, does not answer.
var errNoEnd = errors.New("its files do not answer")

// patiently calls f, which reads files of a target's, and waits for its end no longer than Options.TrustTimeout: all other
// targets wait with us. What does not end by then nothing can end; it is left alone, and until it has ended f is not called again. The
// caller holds ops.
func (in *Interceptor) patiently(t *target, f func() error) error {
	if t.unended != nil {
		select {
		case <-t.unended:
			t.unended = nil
		default:
			return errNoEnd
		}
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	limit := time.NewTimer(in.opts.TrustTimeout)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		t.unended = done
		return errNoEnd
	}
}
