package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/intercept/ca"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/trust"
	"github.com/sluice-proxy/sluice/pool"
)

// confidant has programs in containers trust the CA.
type confidant struct {
	ca    *ca.Authority
	log   *slog.Logger
	looks *singleflight.Group // at who does not trust the CA, by the targets' IDs
}

func newConfidant(a *ca.Authority, log *slog.Logger) confidant {
	return confidant{ca: a, log: log, looks: new(singleflight.Group)}
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

// lookLimit is how long who asks for the targets waits for the look at one's processes. What they are made of may not answer: a file
// system of an agent's own, or one whose server is away.
const lookLimit = 2 * time.Second

// Untrusting implements [control.Trust]. What does not end in time goes on by itself, and is not begun again before it has ended.
func (c confidant) Untrusting(t intercept.Target) []intercept.Untrusting {
	limit := time.NewTimer(lookLimit)
	defer limit.Stop()
	var err error
	select {
	case look := <-c.looks.DoChan(t.ID, func() (any, error) { return c.look(t) }):
		if err = look.Err; err == nil {
			return look.Val.([]intercept.Untrusting)
		}
	case <-limit.C:
		err = errors.New("they, or their files, do not answer")
	}
	c.log.Warn("who of a target does not trust the CA is not known", "target", t.ID, "error", err)
	return nil
}

// look is what Untrusting waits for. What it reads is an agent's: a fault of ours in that ends no daemon.
func (c confidant) look(t intercept.Target) (all []intercept.Untrusting, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("panic: %v\n%s", fault, debug.Stack())
		}
	}()
	pids, err := cgroup.Processes(t.Cgroup)
	if err != nil {
		return nil, nil // it has just ended
	}
	pids = slices.DeleteFunc(pids, isSluice)
	for _, u := range trust.FindUntrusting(pids, c.ca.Bundle()) {
		all = append(all, intercept.Untrusting{PID: u.PID, Process: u.Name, Reason: u.Reason, WayOut: u.WayOut})
	}
	return all, nil
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

// permitting has a CA made for newly bound hosts, and what is attached trust it. The two are apart because the one is part of
// the change that binds them, and the other waits for what may be writing a change itself.
type permitting struct {
	*ca.Authority
	in  *intercept.Interceptor // nil until it is there
	new atomic.Bool            // there is a CA that what is attached has not been told of
}

// Permit is [pool.Options]'.
func (p *permitting) Permit(hosts []string) error {
	changed, err := p.Authority.Permit(hosts)
	if err != nil {
		return pool.Unavailable("no CA can be made for %s, so nothing was changed: %s: mend that and try again", strings.Join(hosts, ", "), err)
	}
	if changed {
		p.new.Store(true)
	}
	return nil
}

// Confide implements [control.Authority].
func (p *permitting) Confide() {
	if p.new.Swap(false) {
		p.in.Confide(context.Background())
	}
}
