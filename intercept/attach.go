package intercept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// Request says what to attach to.
type Request struct {
	// Kind is how the target is named: KindCgroup and KindRun take Cgroup, KindPID takes
	// PID, KindUnit takes Unit, KindContainer Container and KindSelector Selector. Empty: KindCgroup.
	Kind Kind
	// Cgroup is the absolute path of a cgroup v2 folder.
	Cgroup string
	// PID is the process whose cgroup is meant. With KindRun, where the cgroup has no
	// process yet, it is the one that will start the command: its network namespace has a
	// listener before Attach returns, and keeps it while the target is there. 0: none.
	PID int
	// Unit is a unit of systemd's; without a suffix it is a service.
	Unit string
	// Container is a name as container.Query takes it. It does not have to run.
	Container string
	// Selector is a label, KEY=VALUE.
	Selector string
	// Namespace is containerd's, for Container and Selector. Empty: any.
	Namespace string
	// Pools are the names of the pools that the target may use. Empty: any.
	Pools []string
	// KeepConnections lets connections to bound ports that are there already go on past us until they
	// end, instead of closing them.
	KeepConnections bool
}

// Attach puts the programs on a cgroup, after every network namespace of its processes
// has listeners. A cgroup that is attached already is put right if something is not in force, and its target
// returned; one whose target waits or failed is tried again, and stays a target if that fails.
// A container that does not run is attached when it starts; a selector's containers, those
// that run and those to come, become targets of their own. When it fails, nothing new is left: no
// program, no listener, no row. The errors match what cgroup.Validate, cgroup.OfPID, cgroup.OfUnit and
// container.Finder give, ErrConflict, ErrExclusive, ErrUnsupported and ErrStopped.
func (in *Interceptor) Attach(ctx context.Context, r Request) (Target, error) {
	if in.opts.Lacking != nil {
		return Target{}, in.opts.Lacking
	}
	v := Target{Kind: r.Kind, Pools: append([]string{}, r.Pools...), Created: in.opts.Now(), KeepConnections: r.KeepConnections}
	pid := r.PID
	var err error
	switch r.Kind {
	case KindSelector:
		return in.attachSelector(ctx, r, v)
	case KindContainer:
		v, pid, err = in.findContainer(ctx, r, v)
	default:
		v.Cgroup, v.Ref, err = locate(ctx, r)
		if v.Kind == "" {
			v.Kind = KindCgroup
		}
		if v.Kind == KindUnit {
			v.Unit = v.Ref
		}
	}
	if err != nil {
		return Target{}, err
	}
	relieve := in.precede(ctx, v.Cgroup)
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.stopped {
		return Target{}, ErrStopped
	}
	defer func() {
		if err := relieve(); err != nil {
			in.opts.Log.Error("listener not taken back", "error", err)
		}
	}()
	before := in.same(v)
	made, err := in.add(ctx, v, pid)
	if err != nil {
		return Target{}, err
	}
	if before != nil {
		in.confide(ctx, before, witness(before, pid))
	}
	if v.Kind == KindContainer {
		in.lookOut(false)
	}
	return made, nil
}

// add makes a target of v, whose ID is still to be found; pid is for KindRun and for a container. The caller holds ops.
func (in *Interceptor) add(ctx context.Context, v Target, pid int) (Target, error) {
	if t := in.same(v); t != nil {
		if !samePools(t.Pools, v.Pools) {
			return Target{}, fmt.Errorf("%s: %w: it is target %s, for other pools; detach that first", v.what(), ErrConflict, t.ID)
		}
		in.mend(ctx, t)
		if err := in.retry(ctx, t); err != nil {
			return Target{}, fmt.Errorf("%s, which is target %s: %w", v.what(), t.ID, err)
		}
		return in.judge(in.present(t)), nil
	}
	// A socket's hooks would run once for each attached cgroup above it, and the second run
	// takes the first one's redirect for the agent's own connect to loopback.
	if t := in.nested(v.Cgroup, ""); t != nil {
		return Target{}, fmt.Errorf("%s: %w: target %s is %s, and attached cgroups cannot be nested; detach that first", v.what(), ErrConflict, t.ID, t.Cgroup)
	}
	v.ID = targetID(v.identity(), in.taken)
	t := in.newTarget(v)
	if t.Kind == KindRun {
		t.pid = pid
	}
	in.register(t)
	hooked := false
	switch {
	case t.Kind == KindSelector:
		t.State = StateWatching
	case t.Cgroup == "":
		t.State, t.Reason = StateWaiting, notRunning
	default:
		if err := in.engage(ctx, t, witness(t, pid)); err != nil {
			return Target{}, errors.Join(err, in.dismiss(t, false))
		}
		hooked = true
	}
	if err := in.opts.Memory.Save(ctx, in.present(t)); err != nil {
		return Target{}, errors.Join(fmt.Errorf("remember the target: %w", err), in.dismiss(t, hooked))
	}
	in.keepVigil()
	in.accompany(t)
	if hooked {
		in.opts.Log.Info("attached", "target", t.ID, "cgroup", t.Cgroup)
	}
	return in.present(t), nil
}

// noProcess is the id of a process that there is none of. It matches fs.ErrNotExist.
type noProcess int

func (p noProcess) Error() string { return fmt.Sprintf("there is no process %d", int(p)) }

func (noProcess) Is(other error) bool { return other == fs.ErrNotExist }

// locate finds the cgroup that a request means, and checks that it may be attached.
func locate(ctx context.Context, r Request) (path, ref string, err error) {
	path, ref = r.Cgroup, r.Cgroup
	switch r.Kind {
	case KindCgroup, KindRun, "":
		if path == "" {
			return "", "", errors.New("no cgroup given")
		}
	case KindPID:
		ref = strconv.Itoa(r.PID)
		path, err = cgroup.OfPID(r.PID)
		if errors.Is(err, fs.ErrNotExist) {
			return "", "", noProcess(r.PID)
		}
		if err != nil {
			return "", "", err
		}
	case KindUnit:
		if path, ref, err = cgroup.OfUnit(ctx, r.Unit); err != nil {
			return "", "", err
		}
	default:
		return "", "", fmt.Errorf("unknown kind of target %q", r.Kind)
	}
	path, err = cgroup.Validate(path)
	if err == nil && r.Kind == KindPID {
		err = cgroup.Alone(r.PID, path)
	} else if err != nil && r.Kind == KindPID {
		err = fmt.Errorf("process %d: %w; it would have to be moved, which its open connections do not follow: start it anew "+
			"with 'sluice run' or as a systemd unit", r.PID, err)
	} else if err != nil && r.Kind == KindUnit {
		err = fmt.Errorf("unit %s: %w", ref, err)
	}
	return path, ref, err
}

// Detach takes the programs off a target's cgroup, closes its connections and forgets
// it. The error matches ErrNotFound.
func (in *Interceptor) Detach(ctx context.Context, id string) error {
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.stopped {
		return ErrStopped
	}
	in.mu.RLock()
	t, ok := in.targets[id]
	in.mu.RUnlock()
	if !ok {
		return fmt.Errorf("target %q: %w", id, ErrNotFound)
	}
	if t.Parent != "" {
		return fmt.Errorf("target %s: %w: selector %s keeps it attached, which is target %s; detach that", id, ErrConflict, t.Selector, t.Parent)
	}
	return in.detach(ctx, t)
}

// DetachAll detaches every target, also after one of them failed.
func (in *Interceptor) DetachAll(ctx context.Context) error {
	in.ops.Lock()
	defer in.ops.Unlock()
	if in.stopped {
		return ErrStopped
	}
	var failed []error
	var left []*space
	for _, t := range in.allTargets() {
		if t.Parent == "" {
			spaces, err := in.takeOff(ctx, t)
			left, failed = append(left, spaces...), append(failed, err)
		}
	}
	return errors.Join(append(failed, in.settle(left))...)
}

// settle gives up what of the spaces that were left nobody uses, and has what is kept of all targets together follow: once for
// however many were detached, for it takes the longer the more there are. The caller holds ops.
func (in *Interceptor) settle(left []*space) error {
	err := in.reviewAll(left)
	in.refreshGuards()
	in.keepVigil()
	return err
}

// detach is Detach of a target that there is. The caller holds ops.
func (in *Interceptor) detach(ctx context.Context, t *target) error {
	left, err := in.takeOff(ctx, t)
	return errors.Join(err, in.settle(left))
}

// takeOff forgets first: if the rest fails, a restart does not attach it again, but takes
// the programs off. The caller holds ops, and settles.
func (in *Interceptor) takeOff(ctx context.Context, t *target) (left []*space, err error) {
	if t.Kind == KindSelector {
		for _, child := range in.allTargets() {
			if child.Parent != t.ID {
				continue
			}
			spaces, err := in.takeOff(ctx, child)
			if left = append(left, spaces...); err != nil {
				return left, err
			}
		}
	}
	if err := in.opts.Memory.Delete(ctx, t.ID); err != nil {
		return left, fmt.Errorf("forget target %s: %w", t.ID, err)
	}
	spaces, err := in.part(t, true) // one that failed may have programs from a former run
	if left = append(left, spaces...); err != nil {
		return left, err
	}
	in.opts.Log.Info("detached", "target", t.ID, "cgroup", t.Cgroup)
	return left, nil
}

// dismiss takes back what an attach that fails has done. The caller holds ops.
func (in *Interceptor) dismiss(t *target, hooked bool) error {
	left, err := in.part(t, hooked)
	err = errors.Join(err, in.reviewAll(left))
	in.refreshGuards()
	return err
}

// part takes the programs off, then the target and its connections, and returns the spaces that it used. The caller holds ops,
// and settles.
func (in *Interceptor) part(t *target, hooked bool) (left []*space, err error) {
	if hooked {
		err = in.unhook(t)
	}
	in.mu.Lock()
	delete(in.targets, t.ID)
	clear(in.owners)
	in.mu.Unlock()
	t.end()
	t.cut()
	err = errors.Join(err, in.distrust(t))
	return in.leave(t), err
}

// unhook takes the programs off, if there are any: by id if the path is gone or stands for another cgroup.
func (in *Interceptor) unhook(t *target) error {
	if id, err := cgroup.ID(t.Cgroup); err == nil && id == t.CgroupID {
		if err := in.opts.Hooks.Detach(t.Cgroup); err != nil && !errors.Is(err, bpf.ErrNotAttached) {
			return fmt.Errorf("take the programs off %s: %w", t.Cgroup, err)
		}
		return nil
	}
	if err := in.opts.Hooks.DetachID(t.CgroupID); err != nil && !errors.Is(err, bpf.ErrNotAttached) {
		return fmt.Errorf("take the programs off cgroup %d, which was %s: %w", t.CgroupID, t.Cgroup, err)
	}
	return nil
}

// engage has the CA trusted by way of a process of the target's, if there is one (0: none), and the listeners made, and then
// puts the programs on: so no connect is refused in between, and none is shown a certificate that it cannot trust yet,
// which a program may not forget. When it fails the programs are off; the rest goes in dismiss. The caller holds ops.
func (in *Interceptor) engage(ctx context.Context, t *target, witness int) error {
	if in.opts.Lacking != nil { // it is remembered from another kernel
		return in.opts.Lacking
	}
	id, err := cgroup.ID(t.Cgroup)
	if err != nil {
		return err
	}
	in.mu.Lock()
	t.CgroupID, t.State, t.Reason = id, StateAttached, ""
	clear(in.owners)
	in.mu.Unlock()
	if t.pid != 0 {
		if err := in.prepare(ctx, t); err != nil {
			return err
		}
	}
	if err := in.scan(ctx, t); err != nil {
		return err
	}
	if err := in.await(ctx, t); err != nil {
		return err
	}
	in.confide(ctx, t, witness)
	in.keepOlder(t)
	in.refreshGuards()
	if err := in.opts.Hooks.Attach(t.Cgroup); err != nil {
		return fmt.Errorf("attach to %s: %w", t.Cgroup, err)
	}
	// Processes that came meanwhile; later ones are told by Events.
	if err := in.scan(ctx, t); err != nil {
		return errors.Join(err, in.unhook(t))
	}
	in.closeOlder(t)
	return nil
}

func (in *Interceptor) setState(t *target, s State, reason string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	t.State, t.Reason = s, reason
	clear(in.owners)
}

func (in *Interceptor) newTarget(v Target) *target {
	t := &target{Target: v}
	t.life, t.end = context.WithCancel(in.live)
	t.conn, t.cut = context.WithCancel(in.conn)
	return t
}

func (in *Interceptor) register(t *target) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.targets[t.ID] = t
}

func (in *Interceptor) present(t *target) Target {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.show(t)
}

// same is the target that stands for the same thing already, or nil.
func (in *Interceptor) same(v Target) *target {
	in.mu.RLock()
	defer in.mu.RUnlock()
	for _, t := range in.targets {
		if v.Cgroup != "" && t.Cgroup == v.Cgroup || t.identity() == v.identity() {
			return t
		}
	}
	return nil
}

// nested is a target other than but whose cgroup is path, above or below it, or nil.
func (in *Interceptor) nested(path, but string) *target {
	in.mu.RLock()
	defer in.mu.RUnlock()
	for _, t := range in.targets {
		if path == "" || t.Cgroup == "" || t.ID == but {
			continue
		}
		if cgroup.Within(path, t.Cgroup) || cgroup.Within(t.Cgroup, path) {
			return t
		}
	}
	return nil
}

func (in *Interceptor) taken(id string) bool {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.targets[id] != nil
}

func (in *Interceptor) allTargets() []*target {
	in.mu.RLock()
	defer in.mu.RUnlock()
	list := make([]*target, 0, len(in.targets))
	for _, t := range in.targets {
		list = append(list, t)
	}
	return list
}

// attachedTargets are those whose programs are on their cgroups.
func (in *Interceptor) attachedTargets() []*target {
	in.mu.RLock()
	defer in.mu.RUnlock()
	var list []*target
	for _, t := range in.targets {
		if t.State == StateAttached {
			list = append(list, t)
		}
	}
	return list
}
