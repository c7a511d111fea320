package intercept

import (
	"context"
	"errors"
	"io/fs"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// accompany follows a target, or follows it anew where its cgroup is now. The caller holds ops.
func (in *Interceptor) accompany(t *target) {
	if t.part != nil {
		t.part()
	}
	if t.Cgroup == "" {
		return // a container that has not been seen running, or a selector: their events tell
	}
	var ctx context.Context
	ctx, t.part = context.WithCancel(t.life)
	path := t.Cgroup
	in.tasks.Go(func() { in.follow(ctx, t, path) })
}

// follow accompanies a target: listeners when processes come, and the wait for the
// cgroup's return when it is gone.
func (in *Interceptor) follow(ctx context.Context, t *target, path string) {
	for ctx.Err() == nil {
		in.mu.RLock()
		attached := t.State == StateAttached
		in.mu.RUnlock()
		if attached && !in.watch(ctx, t, path) {
			return
		}
		if !attached || in.lost(ctx, t) {
			if err := cgroup.Appear(ctx, path); err != nil {
				if ctx.Err() == nil {
					in.setState(t, StateFailed, err.Error())
				}
				return
			}
			in.ops.Lock()
			failed := false
			if ctx.Err() == nil && !in.stopped {
				_ = in.raise(t.life, t, witness(t, 0))
				in.mu.RLock()
				failed = t.State == StateFailed
				in.mu.RUnlock()
			}
			in.ops.Unlock()
			if failed {
				return // its reason is shown; detach and attach it to try again
			}
		}
	}
}

// watch follows an attached cgroup until it is removed; it is false when the following
// ended for another reason.
func (in *Interceptor) watch(ctx context.Context, t *target, path string) bool {
	ctx, end := context.WithCancel(ctx)
	defer end()
	events, err := cgroup.Watch(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		in.opts.Log.Error("cgroup not watched: it will not be attached again after it was removed", "target", t.ID, "error", err)
		return false
	}
	if id, err := cgroup.ID(path); err != nil || id != in.present(t).CgroupID {
		return true // it was made again since it was attached, and what is watched is another one
	}
	for e := range events {
		switch e {
		case cgroup.Populated:
			if err := in.search(t); err != nil && ctx.Err() == nil {
				in.opts.Log.Error("namespace without listener: its connects are refused", "target", t.ID, "error", err)
			}
			in.ops.Lock()
			in.confide(ctx, t, witness(t, 0))
			in.ops.Unlock()
		case cgroup.Removed:
			return true
		}
	}
	return false
}

// lost notes that a target's cgroup is gone, and tells whether to wait for its return:
// not if the target ends with it.
func (in *Interceptor) lost(ctx context.Context, t *target) bool {
	in.ops.Lock()
	defer in.ops.Unlock()
	if ctx.Err() != nil || in.stopped {
		return false
	}
	if t.Kind == KindRun {
		if err := in.detach(t.life, t); err != nil {
			in.opts.Log.Error("ended target not cleaned up", "target", t.ID, "error", err)
		}
		return false
	}
	in.drop(t)
	in.succeed(t.life, t)
	return ctx.Err() == nil // else it is followed where its heir is
}

// drop takes back what was done for a cgroup that is gone. The caller holds ops.
func (in *Interceptor) drop(t *target) {
	in.setState(t, StateWaiting, t.gone())
	err := errors.Join(in.opts.Hooks.DetachID(t.CgroupID), in.release(t))
	if err != nil {
		in.opts.Log.Error("removed cgroup not cleaned up", "target", t.ID, "error", err)
	}
	in.opts.Log.Info("cgroup removed: waiting for its return", "target", t.ID, "cgroup", t.Cgroup)
}

// retry attaches a target that waits for its cgroup, which is there, but follow has not come to it yet; or that failed. The caller
// holds ops.
func (in *Interceptor) retry(ctx context.Context, t *target) error {
	v := in.present(t)
	if v.State != StateWaiting && v.State != StateFailed || v.Kind == KindContainer || v.Kind == KindRun {
		return nil // a container's events tell, and they know its cgroup
	}
	if err := in.raise(ctx, t, witness(t, 0)); err != nil {
		return err
	}
	in.accompany(t)
	return nil
}

// raise is engage for a target that stays, whatever comes of it: the error is its reason. The caller holds ops.
func (in *Interceptor) raise(ctx context.Context, t *target, witness int) error {
	before := t.CgroupID
	_, err := cgroup.Validate(t.Cgroup)
	if err == nil {
		err = in.engage(ctx, t, witness)
	}
	if err == nil {
		in.opts.Log.Info("attached again", "target", t.ID, "cgroup", t.Cgroup)
		if before != t.CgroupID {
			if err := in.opts.Memory.Save(ctx, in.present(t)); err != nil {
				in.opts.Log.Error("target's new cgroup not remembered", "target", t.ID, "error", err)
			}
		}
		return nil
	}
	state := StateFailed
	if errors.Is(err, fs.ErrNotExist) {
		state = StateWaiting
	} else {
		in.opts.Log.Error("target not attached", "target", t.ID, "error", err)
	}
	in.setState(t, state, err.Error())
	if err := in.release(t); err != nil {
		in.opts.Log.Error("listeners not taken back", "target", t.ID, "error", err)
	}
	return err
}

// keepVigil has the places of the targets' cgroups watched by the kernel: what is made there again
// is refused until it is attached, also when nobody runs who would do that. The caller holds ops.
func (in *Interceptor) keepVigil() {
	if in.opts.Vigils == nil {
		return
	}
	var places []string
	for _, t := range in.allTargets() {
		if t.Cgroup != "" && t.Kind != KindRun {
			places = append(places, t.Cgroup)
		}
	}
	said := in.vigilFailed
	in.vigilFailed = ""
	if err := in.opts.Vigils.SetVigils(places); err != nil {
		if in.vigilFailed = err.Error(); in.vigilFailed != said { // it is tried again and again
			in.opts.Log.Warn("a cgroup that is made again is not refused before it is attached", "error", err)
		}
	}
}
