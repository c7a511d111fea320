package intercept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// lookEvery is how often the kernel is asked whether what was attached is in force. It tells nobody when a link is
// detached from outside, so this bounds for how long connects get past us then.
const lookEvery = 5 * time.Second

// inForce is what the kernel says of a target whose programs were put on: nil, or why they are not all in
// force. The error matches fs.ErrNotExist when the cgroup is gone.
func (in *Interceptor) inForce(t Target) error {
	id, err := cgroup.ID(t.Cgroup)
	switch {
	case err != nil:
		return err
	case id != t.CgroupID:
		return fmt.Errorf("the cgroup was removed and made again (its id is %d now, it was %d)", id, t.CgroupID)
	}
	missing, err := in.opts.Hooks.Missing(t.Cgroup)
	if err != nil {
		return fmt.Errorf("the kernel was not to be asked what is in force: %w", err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("somebody took off or replaced %s; it is put back within %s", strings.Join(missing, ", "), in.opts.Look)
	}
	return nil
}

// judge is a target's state as the kernel has it now.
func (in *Interceptor) judge(t Target) Target {
	if t.State != StateAttached {
		return t
	}
	switch err := in.inForce(t); {
	case errors.Is(err, fs.ErrNotExist):
		t.State, t.Reason = StateWaiting, t.gone()
	case err != nil:
		t.State, t.Reason = StateNotInForce, err.Error()
	}
	return t
}

// look asks the kernel about each target, again and again, and mends what is not in force.
func (in *Interceptor) look() {
	every := time.NewTicker(in.opts.Look)
	defer every.Stop()
	for {
		select {
		case <-in.live.Done():
			return
		case <-every.C:
		}
		in.ops.Lock()
		if !in.stopped {
			in.keepVigil()
		}
		in.ops.Unlock()
		for _, t := range in.allTargets() {
			if v := in.present(t); v.State == StateAttached && in.inForce(v) != nil {
				in.ops.Lock()
				if in.taken(t.ID) && !in.stopped {
					in.mend(t.life, t)
				}
				in.ops.Unlock()
			}
		}
	}
}

// mend puts back what is not in force, and closes what was connected past us meanwhile. The caller holds ops.
func (in *Interceptor) mend(ctx context.Context, t *target) {
	v := in.present(t)
	if v.State != StateAttached {
		return
	}
	why := in.inForce(v)
	if why == nil {
		return
	}
	id, err := cgroup.ID(v.Cgroup)
	if err == nil && id == v.CgroupID {
		if err := in.opts.Hooks.Attach(v.Cgroup); err != nil {
			if t.unmended != err.Error() { // it is tried again and again
				in.opts.Log.Error("target not in force, and not to be mended", "target", t.ID, "cgroup", v.Cgroup, "reason", why, "error", err)
			}
			t.unmended = err.Error()
			return
		}
		t.unmended = ""
		in.closeOlder(t)
		in.opts.Log.Warn("target was not in force: mended", "target", t.ID, "cgroup", v.Cgroup, "reason", why, "connections_closed", in.present(t).Destroyed)
		return
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return // not known: no descriptor to look with, for example
	}
	// The watch has not told, or has not been able to: go the way that it would have gone.
	if t.Kind == KindRun {
		return // it ends with its cgroup, and follow sees to that
	}
	in.drop(t)
	if err == nil {
		_ = in.raise(ctx, t, witness(t, 0))
	}
	in.accompany(t)
}
