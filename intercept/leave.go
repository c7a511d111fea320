package intercept

import (
	"errors"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// release takes a target off every space, and gives up those that nobody uses. The
// caller holds ops.
func (in *Interceptor) release(t *target) error { return in.reviewAll(in.leave(t)) }

// leave takes a target off every space and returns those that it used: they are to be reviewed. The caller holds ops.
func (in *Interceptor) leave(t *target) (left []*space) {
	for _, s := range in.allSpaces() {
		in.mu.Lock()
		used := s.users[t.ID]
		delete(s.users, t.ID)
		in.mu.Unlock()
		delete(s.pins, t.ID)
		if !used {
			continue
		}
		if s.holder != nil {
			s.holder.close() // it may be one of the target's
			s.holder = nil
		}
		left = append(left, s)
	}
	return left
}

// reviewAll reviews spaces, each of them once: to look through the processes of all targets takes its time. The caller holds ops.
func (in *Interceptor) reviewAll(left []*space) error {
	var failed []error
	done := make(map[*space]bool)
	for _, s := range left {
		if !done[s] {
			done[s] = true
			failed = append(failed, in.review(s))
		}
	}
	return errors.Join(failed...)
}

// review finds out which targets still use a space that has lost its holder, and gives
// it up if there is none. The caller holds ops.
func (in *Interceptor) review(s *space) error {
	in.stay(s)
	p := in.survey(s)
	if p == nil && len(s.pins) > 0 {
		return nil
	}
	if p != nil {
		in.hold(s, p)
		return nil
	}
	return in.withdraw(s)
}

// withdraw gives up a space. The caller holds ops.
func (in *Interceptor) withdraw(s *space) error {
	cookie := s.home.ns.Cookie()
	in.mu.Lock()
	delete(in.spaces, cookie)
	in.mu.Unlock()
	err := in.opts.Listeners.DeleteListener(cookie)
	close(s.done)
	s.stopListening()
	in.forsake(cookie)
	err = errors.Join(err, s.unguard())
	in.opts.Exchange.CloseNetNS(cookie)
	s.home.release()
	// Somebody may have come between the survey and the withdrawal, and saw a listener.
	in.lookAround()
	return err
}

// survey looks for the processes of attached cgroups in a space: it brings users up to
// date and returns a handle on one of them, or nil.
func (in *Interceptor) survey(s *space) (found *process) {
	users := make(map[string]bool)
	for id := range s.pins {
		users[id] = true
	}
	for _, t := range in.attachedTargets() {
		pids, err := cgroup.Processes(t.Cgroup)
		if err != nil {
			continue // gone, with all of its processes
		}
		for _, pid := range pids {
			p := in.occupant(pid, s)
			if p == nil {
				continue
			}
			users[t.ID] = true
			if found == nil {
				found = p
			} else {
				p.close()
			}
			break
		}
	}
	in.mu.Lock()
	s.users = users
	in.mu.Unlock()
	return found
}
