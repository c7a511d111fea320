package intercept

import (
	"errors"
	"slices"
	"strings"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/guard"
)

// Guard drops on the links of namespaces what goes to a bound port and did not come through us.
// *bpf.Redirect is one.
type Guard interface {
	guard.Programs
	// Keep lets pass what the socket with this cookie sends; Unkeep ends that.
	Keep(cookie uint64) error
	Unkeep(cookie uint64) error
	// Kept are the cookies of those, a former run's included.
	Kept() ([]uint64, error)
	// GuardedNamespaces are the cookies of those with guarded links, a former run's included.
	GuardedNamespaces() []uint64
}

// maxOlder is how many connections older than the attach a target names.
const maxOlder = 100

// What became of a connection that is older than the attach.
const (
	FateClosed  = "closed"     // its process got ECONNABORTED, and connects anew
	FateKept    = "kept"       // it goes on past sluice, with what credential the agent has, until it ends
	FateDropped = "not closed" // the kernel could not: what it sends is dropped
)

// Older is a connection to a bound port that was there before the attach.
type Older struct {
	Protocol string `json:"protocol"` // tcp, udp or udplite
	Local    string `json:"local"`    // ADDRESS:PORT
	Remote   string `json:"remote"`
	State    string `json:"state"`             // as ss(8) says it
	PID      int    `json:"pid,omitempty"`     // of a process that holds it
	Command  string `json:"command,omitempty"` // that process's name
	Fate     string `json:"fate"`
}

func newOlder(c guard.Connection, fate string) Older {
	return Older{
		Protocol: c.Protocol, Local: c.Local.String(), Remote: c.Remote.String(), State: c.State, PID: c.PID, Command: c.Command, Fate: fate,
	}
}

// newLinks makes what guards the links of namespaces, or nil.
func (in *Interceptor) newLinks() *guard.Guard {
	if in.opts.Guard == nil {
		return nil
	}
	return guard.New(guard.Options{
		Programs: in.opts.Guard, Rules: in.rules, Name: in.opts.GuardName, Backend: in.opts.GuardBackend, Volatile: in.opts.GuardVolatile, Log: in.opts.Log,
		Moved: in.lookAround, // the way out of a new namespace is a link that was made in, or moved out of, one that is known
	})
}

// lookAround has new namespaces looked for, soon.
func (in *Interceptor) lookAround() {
	select {
	case in.moved <- struct{}{}:
	default: // one look is due already
	}
}

// rules are what a table of nftables is made from.
func (in *Interceptor) rules() guard.Rules {
	in.mu.RLock()
	defer in.mu.RUnlock()
	var r guard.Rules
	for _, t := range in.targets {
		if t.State != StateAttached {
			continue
		}
		if level, err := cgroup.Level(t.Cgroup); err == nil {
			r.Cgroups = append(r.Cgroups, guard.Cgroup{ID: t.CgroupID, Level: level})
		}
		r.Kept = append(r.Kept, t.kept...)
	}
	r.Ports = in.opts.Routes.Ports()
	return r
}

// guardedBy is by what the links of a target's namespaces are guarded. The caller holds mu.
func (in *Interceptor) guardedBy(t *target) string {
	var by []string
	for _, s := range in.spaces {
		if s.links != nil && s.users[t.ID] && !slices.Contains(by, string(s.links.Backend())) {
			by = append(by, string(s.links.Backend()))
		}
	}
	slices.Sort(by)
	return strings.Join(by, ", ")
}

// refreshGuards applies changed targets and ports where a table does the guarding.
func (in *Interceptor) refreshGuards() {
	for _, s := range in.allSpaces() {
		if s.links == nil {
			continue
		}
		if err := s.links.Refresh(); err != nil {
			in.opts.Log.Error("guard not brought up to date", "netns", s.home.ns.Cookie(), "error", err)
		}
	}
}

// followLinks looks for new namespaces when it is told to, by lookAround.
func (in *Interceptor) followLinks() {
	for {
		select {
		case <-in.moved:
		case <-in.live.Done():
			return
		}
		for _, t := range in.attachedTargets() {
			if err := in.search(t); err != nil && in.live.Err() == nil {
				in.opts.Log.Debug("namespaces not looked for", "target", t.ID, "error", err)
			}
		}
	}
}

// dropStrayGuards takes the guard off namespaces that no target uses any more.
func (in *Interceptor) dropStrayGuards() error {
	if in.opts.Guard == nil {
		return nil
	}
	var failed []error
	for _, cookie := range in.opts.Guard.GuardedNamespaces() {
		in.mu.RLock()
		_, ours := in.spaces[cookie]
		in.mu.RUnlock()
		if !ours {
			failed = append(failed, in.opts.Guard.Unguard(cookie))
		}
	}
	return errors.Join(failed...)
}

// older lists a target's connections to bound ports that did not come through us, by namespace.
func (in *Interceptor) older(t *target) map[*space][]guard.Connection {
	own := make(map[uint64]bool)
	wanted := func(id uint64) bool {
		is, known := own[id]
		if !known {
			o, ok := in.owner(id)
			is = ok && o == t
			own[id] = is
		}
		return is
	}
	pids, err := cgroup.Processes(t.Cgroup)
	if err != nil {
		return nil // gone, with all of its connections
	}
	holders := guard.HeldBy(pids)
	all := make(map[*space][]guard.Connection)
	for _, s := range in.allSpaces() {
		err := s.home.ns.Do(func() (err error) {
			all[s], err = guard.Older(wanted, holders, in.opts.Routes.Ports())
			return err
		})
		if err != nil {
			in.opts.Log.Warn("older connections not found", "target", t.ID, "error", err)
		}
	}
	return all
}

// keepOlder lets the target's connections pass before the guard would drop them.
func (in *Interceptor) keepOlder(t *target) {
	if !t.KeepConnections || in.opts.Guard == nil {
		return
	}
	for _, found := range in.older(t) {
		for _, c := range found {
			in.spare(t, c)
		}
	}
}

// spare notes one connection; it is false when there is no room for it.
func (in *Interceptor) spare(t *target, c guard.Connection) bool {
	if in.opts.Guard == nil {
		return true
	}
	if err := in.opts.Guard.Keep(c.Cookie); err != nil {
		in.opts.Log.Warn("an older connection cannot be kept", "target", t.ID, "remote", c.Remote, "error", err)
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if !slices.ContainsFunc(t.kept, func(k guard.Connection) bool { return k.Cookie == c.Cookie }) {
		t.kept = append(t.kept, c)
	}
	return true
}

// closeOlder destroys the target's connections to bound ports that were made before the
// programs were there, or keeps them, and notes which they were. What cannot be destroyed is
// told of in the log; the guard drops what it sends.
func (in *Interceptor) closeOlder(t *target) {
	var (
		named        []Older
		closed, kept int
	)
	for s, found := range in.older(t) {
		for _, c := range found {
			fate := FateKept
			if !t.KeepConnections || !in.spare(t, c) {
				fate = in.destroy(t, s, c)
			}
			switch fate {
			case FateKept:
				kept++
			case FateClosed:
				closed++
			}
			if len(named) < maxOlder {
				named = append(named, newOlder(c, fate))
			}
		}
	}
	in.mu.Lock()
	t.Destroyed, t.Kept, t.Older = closed, kept, named
	in.mu.Unlock()
	if kept > 0 {
		in.refreshGuards()
	}
}

func (in *Interceptor) destroy(t *target, s *space, c guard.Connection) (fate string) {
	err := s.home.ns.Do(c.Destroy)
	if in.opts.Guard != nil {
		err = errors.Join(err, in.opts.Guard.Unkeep(c.Cookie))
	}
	if err != nil {
		in.opts.Log.Warn("older connection not closed", "target", t.ID, "error", err)
		return FateDropped
	}
	return FateClosed
}

// sweepKept forgets kept connections that have ended.
func (in *Interceptor) sweepKept() error {
	if in.opts.Guard == nil {
		return nil
	}
	kept, err := in.opts.Guard.Kept()
	if err != nil || len(kept) == 0 {
		return err
	}
	open := make(map[uint64]bool)
	for _, s := range in.allSpaces() {
		err := s.home.ns.Do(func() error {
			here, err := guard.Cookies()
			for cookie := range here {
				open[cookie] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	// One that is kept since then may be open without being among those.
	kept = slices.DeleteFunc(kept, func(cookie uint64) bool { return open[cookie] })
	var failed []error
	for _, cookie := range kept {
		failed = append(failed, in.opts.Guard.Unkeep(cookie))
	}
	in.mu.Lock()
	for _, t := range in.targets {
		t.kept = slices.DeleteFunc(t.kept, func(c guard.Connection) bool { return slices.Contains(kept, c.Cookie) })
		t.Kept = len(t.kept)
	}
	in.mu.Unlock()
	return errors.Join(failed...)
}
