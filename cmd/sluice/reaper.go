package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// reaper removes the cgroups of `sluice run` in which nothing runs any more.
// Usually run does that itself; the reaper is for a run that was killed. The
// interceptor sees that the cgroup is gone and ends the target.
type reaper struct {
	log *slog.Logger

	mu       sync.Mutex
	life     context.Context // of the watches; ends with stop
	stop     context.CancelFunc
	watches  sync.WaitGroup
	watching map[string]bool // by path
}

func newReaper(log *slog.Logger) *reaper {
	r := &reaper{log: log, watching: make(map[string]bool)}
	r.life, r.stop = context.WithCancel(context.Background())
	return r
}

// clearAll is clear for the cgroups of every run.
func (r *reaper) clearAll() {
	if mount, err := cgroup.Mount(); err == nil {
		r.clear(filepath.Join(mount, scopeParent))
	}
}

// clear removes what runs have left that were killed while no daemon ran: cgroups in
// parent that are empty and whose maker is gone. One that has just been made is empty
// too, but its maker lives.
func (r *reaper) clear(parent string) {
	made, err := filepath.Glob(filepath.Join(parent, "run-*-*"))
	if err != nil {
		return // the pattern is well formed
	}
	for _, path := range made {
		pid := strings.Split(filepath.Base(path), "-")[1]
		if _, err := os.Stat(filepath.Join("/proc", pid)); err == nil {
			continue
		}
		left, err := cgroup.Processes(path)
		if err != nil || len(left) > 0 {
			continue
		}
		if err := removeTree(path); err != nil {
			r.log.Debug("cgroup of a run not removed", "cgroup", path, "error", err)
		}
	}
}

// watch follows a cgroup until it is gone. began says that its command has been
// started; if not, it is empty because the command is yet to come.
func (r *reaper) watch(path string, began bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watching[path] || r.life.Err() != nil {
		return
	}
	events, err := cgroup.Watch(r.life, path)
	if err != nil {
		r.log.Warn("cgroup of a run not watched: it stays if run is killed", "cgroup", path, "error", err)
		return
	}
	r.watching[path] = true
	r.watches.Go(func() {
		r.follow(path, began, events)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watching, path)
	})
}

func (r *reaper) follow(path string, began bool, events <-chan cgroup.Event) {
	for event := range events {
		if event == cgroup.Populated {
			began = true
		}
		if event != cgroup.Empty || !began {
			continue
		}
		// Run may be doing the same, and a process may be joining: both are no
		// reason to worry, and the next event tells.
		if err := removeTree(path); err != nil {
			r.log.Debug("cgroup of a run not removed", "cgroup", path, "error", err)
		}
	}
}

// close ends the watches and waits for them.
func (r *reaper) close() error {
	r.mu.Lock()
	r.stop()
	r.mu.Unlock()
	r.watches.Wait()
	return nil
}
