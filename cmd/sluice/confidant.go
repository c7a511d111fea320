package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/intercept/ca"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/trust"
)

// confidant has programs in containers trust the CA.
type confidant struct {
	ca  *ca.Authority
	log *slog.Logger
}

// Install implements [intercept.Trust]. The processes of a target may be in several mount namespaces: sandboxes,
// and what a unit has started with mounts of its own.
func (c confidant) Install(_ context.Context, t intercept.Target, pid int) error {
	bundle := c.ca.Bundle()
	running, _ := cgroup.Processes(t.Cgroup) // none if it has just ended
	_, err := trust.Cover(pid, running, t.Environment(), bundle)
	if errors.Is(err, trust.ErrHost) {
		err = fmt.Errorf("%w, which are left alone: start it through 'sluice run', or give it what 'sluice ca show' prints", err)
	}
	for _, other := range trust.Apart(pid, running) {
		if _, failed := trust.Cover(other, running, nil, bundle); failed != nil && !errors.Is(failed, trust.ErrHost) && !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, failed)
		}
	}
	for _, u := range c.Untrusting(t) {
		c.log.Warn("a process does not trust the CA", "target", t.ID, "pid", u.PID, "process", u.Process, "reason", u.Reason, "way_out", u.WayOut)
	}
	return err
}

// Untrusting implements [control.Trust].
func (c confidant) Untrusting(t intercept.Target) []intercept.Untrusting {
	pids, err := cgroup.Processes(t.Cgroup)
	if err != nil {
		return nil // it has just ended
	}
	pids = slices.DeleteFunc(pids, isSluice)
	var all []intercept.Untrusting
	for _, u := range trust.FindUntrusting(pids, c.ca.Bundle()) {
		all = append(all, intercept.Untrusting{PID: u.PID, Process: u.Name, Reason: u.Reason, WayOut: u.WayOut})
	}
	return all
}

// isSluice tells whether a process runs this same program: 'sluice attach', by which a unit attaches itself, is in its cgroup.
func isSluice(pid int) bool {
	ours, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && os.SameFile(ours, theirs)
}

// Remove implements [intercept.Trust].
func (confidant) Remove(_ context.Context, t intercept.Target) error {
	pids, err := cgroup.Processes(t.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, pid := range pids {
		err = errors.Join(err, trust.Uncover(pid))
	}
	return err
}

// permitting has what is attached trust a CA for newly bound hosts, too.
type permitting struct {
	*ca.Authority
	in *intercept.Interceptor
}

// Permit implements [control.Authority].
func (p permitting) Permit(hosts []string) (bool, error) {
	changed, err := p.Authority.Permit(hosts)
	if changed {
		p.in.Confide(context.Background())
	}
	return changed, err
}
