package pool

import (
	"sync/atomic"
	"time"

	"github.com/sluice-proxy/sluice/pool/echo"
)

// view is the configuration as requests see it, read without a lock. A change puts only what it has changed in the place of
// what was there: the hundredth pool takes no longer than the first. Each pool is replaced as a whole, and only what moves
// with answers is atomic in it. It is changed with the keeper's lock held.
type view struct {
	pools       table[string, *poolView]
	credentials table[string, Credential]
	tended      table[string, Credential] // those that are to be refreshed, or read again
	routes      sharing[hostPort]
	endpoints   sharing[hostPort]     // with accounts that are refreshed there
	gives       sharing[endpointPath] // tokens are given there
	ends        sharing[endpointPath] // logins are ended there
	known       sharing[tokenDigest]  // placeholders, and tokens of members
	variables   sharing[string]       // of the environment, in which agents look for a key
	ports       sharing[uint16]

	moved signal // raised when there are other ports
	tends signal // raised when something of what is tended has changed

	// For who holds the keeper's lock.
	byID   map[int64]*poolView
	out    map[int64]*poolView // those whose exhaustion was written
	behind bool                // something was stored and then could not be read
}

type hostPort struct {
	host string
	port uint16
}

type poolView struct {
	id       int64
	pool     Pool
	members  []memberView
	active   atomic.Int64 // id of a member
	state    atomic.Value // State: the last edge that was written
	told     atomic.Bool  // an agent was told that it is exhausted, and not reset since
	since    time.Time    // of that edge; guarded by the keeper's lock
	line     *line        // of the requests that are held
	tied     *line        // of those that are held for one member, in no order
	owned    *tieRules    // what of its answers belongs to an account; nil: nothing
	strip    []string
	stripQry []string

	// What it is found by besides its name.
	routes   []hostPort
	refresh  []hostPort // of the token endpoints of its accounts
	gives    []endpointPath
	ends     []endpointPath
	known    []tokenDigest
	variable []string // one, if any
	ports    []uint16
}

type memberView struct {
	id     int64
	name   string
	parked atomic.Bool
	// refreshable and ends (nanoseconds since the epoch, 0: not known) are of an OAuth account.
	refreshable bool
	ends        int64
	inject      [][]Field // by binding
	also        [][]Field // likewise
	echo        func() *echo.Matcher
	tally       *tally
	opened      opened
}

func (v *view) init() {
	v.byID, v.out = make(map[int64]*poolView), make(map[int64]*poolView)
	v.moved.init()
	v.tends.init()
}

// pool is nil if there is none of the name.
func (v *view) pool(name string) *poolView {
	p, _ := v.pools.get(name)
	return p
}

// credential is zero if there is none of the name.
func (v *view) credential(name string) (c Credential, there bool) { return v.credentials.get(name) }

// enlist shows a credential, or that there is none of its name any more. It says whether it is one that is tended, or was.
func (v *view) enlist(c Credential, there bool) (tended bool) {
	before, _ := v.credential(c.Name)
	tended = isTended(before)
	if !there {
		v.credentials.remove(c.Name)
		v.tended.remove(c.Name)
		return tended
	}
	v.credentials.set(c.Name, c)
	if isTended(c) {
		v.tended.set(c.Name, c)
		return true
	}
	v.tended.remove(c.Name)
	return tended
}

// isTended says whether a credential is to be refreshed, or read again.
func isTended(c Credential) bool { return c.Type == OAuth || c.Source != "" }

// replace shows a pool in the place of what it was before. Either may be nil: it is new, or it is gone. Whoever looks for it
// meanwhile finds the one or the other. It says whether there are other ports now.
func (v *view) replace(before, p *poolView) (ports bool) {
	if p != nil {
		v.byID[p.id] = p
		v.mark(p)
		v.pools.set(p.pool.Name, p)
		v.routes.put(p, p.routes)
		v.endpoints.put(p, p.refresh)
		v.gives.put(p, p.gives)
		v.ends.put(p, p.ends)
		v.known.put(p, p.known)
		v.variables.put(p, p.variable)
		ports = v.ports.put(p, p.ports)
	}
	if before == nil {
		return ports
	}
	ports = v.ports.drop(before, before.ports) || ports
	v.variables.drop(before, before.variable)
	v.known.drop(before, before.known)
	v.ends.drop(before, before.ends)
	v.gives.drop(before, before.gives)
	v.endpoints.drop(before, before.refresh)
	v.routes.drop(before, before.routes)
	if p == nil {
		v.pools.remove(before.pool.Name)
		delete(v.out, before.id)
		delete(v.byID, before.id)
	}
	return ports
}

// show makes a change of a pool visible, its cooldowns aside. The lock is held.
func (v *view) show(p *poolView, c Change) {
	for member, parked := range c.Parked {
		if i := p.memberIndex(member); i >= 0 {
			p.members[i].parked.Store(parked)
		}
	}
	if c.Active != 0 {
		p.active.Store(c.Active)
	}
	if c.To != "" {
		p.state.Store(c.To)
		p.since = c.At
		v.mark(p)
	}
}

// mark notes whether a pool is one of those that are to recover. The lock is held.
func (v *view) mark(p *poolView) {
	if p.state.Load() == StateExhausted {
		v.out[p.id] = p
	} else {
		delete(v.out, p.id)
	}
}

// activeIndex is where selection begins.
func (p *poolView) activeIndex() int { return max(0, p.memberIndex(p.active.Load())) }

func (p *poolView) memberIndex(id int64) int {
	for i := range p.members {
		if p.members[i].id == id {
			return i
		}
	}
	return -1
}

// memberNamed is nil if there is none, or no pool.
func (p *poolView) memberNamed(name string) *memberView {
	if p == nil {
		return nil
	}
	for i := range p.members {
		if p.members[i].name == name {
			return &p.members[i]
		}
	}
	return nil
}

func (p *poolView) binding(host string, port uint16) int {
	for i := range p.pool.Bindings {
		if p.pool.Bindings[i].Host == host && p.pool.Bindings[i].Port == port {
			return i
		}
	}
	return -1
}
