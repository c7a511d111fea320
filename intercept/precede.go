package intercept

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// precede listens in the namespaces of a cgroup's processes before the cgroup is attached, and lets others in between any two:
// the attach has to have all of them before it hooks the cgroup, and finds them there. What cannot be had fails in the attach,
// which says so. The returned function gives up what the attach has no use for; the caller holds ops for that.
func (in *Interceptor) precede(ctx context.Context, path string) (relieve func() error) {
	id := fmt.Sprintf("before %d", in.preceded.Add(1))   // no target is called that
	if pids := in.withoutListener(path); len(pids) > 1 { // one is not worth it
		for _, pid := range pids[:min(len(pids), in.opts.MaxNamespaces)] {
			in.ops.Lock()
			if s := in.openOf(ctx, path, pid); s != nil {
				s.pins[id] = true
				in.mu.Lock()
				s.users[id] = true
				in.mu.Unlock()
			}
			in.ops.Unlock()
		}
	}
	return func() error { return in.relieve(id) }
}

// withoutListener is a process of a cgroup in each network namespace that has no listener.
func (in *Interceptor) withoutListener(path string) []int {
	known := make(map[uint64]bool)
	for _, s := range in.allSpaces() {
		known[s.inode] = true
	}
	all, _ := cgroup.Processes(path) // the attach says what is wrong with it
	var pids []int
	for _, pid := range all {
		if inode, err := netnsInode(pid); err == nil && !known[inode] {
			known[inode] = true
			pids = append(pids, pid)
		}
	}
	return pids
}

// openOf listens in the namespace of a process, if it is in the cgroup still. The caller holds ops.
func (in *Interceptor) openOf(ctx context.Context, path string, pid int) *space {
	if in.stopped {
		return nil
	}
	p, err := openProcess(pid)
	if err != nil {
		return nil
	}
	defer p.close()
	if of, err := cgroup.OfPID(pid); err != nil || !cgroup.Within(of, path) {
		return nil
	}
	ns, err := netns.OfPID(pid)
	if err != nil {
		return nil
	}
	if !p.alive() {
		ns.Close()
		return nil
	}
	s, _ := in.open(ctx, ns)
	return s
}

// relieve gives up the spaces that nobody else uses. The caller holds ops.
func (in *Interceptor) relieve(id string) error {
	var failed []error
	for _, s := range in.allSpaces() {
		if !s.pins[id] {
			continue
		}
		delete(s.pins, id)
		in.mu.Lock()
		delete(s.users, id)
		used := len(s.users) > 0
		in.mu.Unlock()
		if !used {
			failed = append(failed, in.review(s))
		}
	}
	return errors.Join(failed...)
}
