package guard

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Backend is by what packets are judged on a namespace's links.
type Backend string

const (
	// TCX puts the programs on links by tcx (Linux 6.6).
	TCX Backend = "tcx"
	// Clsact puts them there as filters of a clsact queueing discipline (Linux 4.5).
	Clsact Backend = "clsact"
	// NFTables is a table of nftables (Linux 5.13), which sees no frames of packet sockets.
	NFTables Backend = "nftables"
	// None is nothing: the hooks on the cgroup are all there is.
	None Backend = "none"
)

// Programs are what judges packets. *bpf.Redirect has them. An ARPHRD type says which one a link needs.
type Programs interface {
	// GuardLink puts one on a link of the calling thread's namespace by tcx, once. The error
	// matches ebpf.ErrNotSupported where there is no tcx, and unix.E2BIG where most links of the
	// namespace (0: any number) have one.
	GuardLink(netns uint64, index int, arphrd uint16, most int) error
	// SweepGuard lets go of the links of a namespace that are gone.
	SweepGuard(netns uint64) error
	// Unguard takes off what GuardLink put on.
	Unguard(netns uint64) error
	// GuardProgram is the program itself.
	GuardProgram(arphrd uint16) *ebpf.Program
}

// Namespace is a network namespace; *netns.NS is one.
type Namespace interface {
	// Do runs f on a thread inside.
	Do(f func() error) error
	// Cookie is the kernel's id of it.
	Cookie() uint64
	// Own tells whether it is this process's.
	Own() bool
}

// maxLinks are guarded in a namespace other than our own: whoever may make links in one makes as many as it likes, each takes a
// descriptor of ours, and others wait until all are guarded.
const maxLinks = 256

// Options are what a Guard works with.
type Options struct {
	Programs Programs
	// Name is what our table and our filters are known by in each namespace. Empty: DefaultName.
	Name string
	// Rules are asked for what nftables has to be told; the programs have it in maps.
	Rules func() Rules
	// Backend is the one to use. Empty: the first of tcx, clsact and nftables that there is.
	Backend Backend
	// Volatile leaves nothing that outlives this process: tcx, or else none.
	Volatile bool
	// Moved is told when links of a namespace came or went, from a goroutine that must not
	// wait. nil: nobody is.
	Moved func()
	Log   *slog.Logger // nil: nothing is logged
}

// DefaultName is that of a host's only sluice.
const DefaultName = "sluice"

// Guard keeps the links of namespaces guarded.
type Guard struct{ opts Options }

// New makes a Guard.
func New(opts Options) *Guard {
	if opts.Name == "" {
		opts.Name = DefaultName
	}
	if opts.Moved == nil {
		opts.Moved = func() {}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Guard{opts: opts}
}

// Links are those of one namespace: each that is there, and each that comes.
type Links struct {
	guard   *Guard
	ns      Namespace
	backend Backend
	how     method // nil: none

	mu    sync.Mutex // held while links are put under guard
	full  bool       // there were more than are guarded
	off   bool       // the guard was taken off
	end   chan struct{}
	ended chan struct{}
}

// method is a backend at work in one namespace. All of it is called inside.
type method interface {
	// guard puts a link under guard, once.
	guard(l netlink.Link) error
	// sweep forgets links that are gone.
	sweep() error
	// refresh applies changed rules.
	refresh() error
	// remove takes everything off.
	remove() error
}

// Protect guards the links of a namespace, those that are there before it returns. Where no
// backend works, the reason is logged, and Backend tells None.
func (g *Guard) Protect(ns Namespace) (*Links, error) {
	l := &Links{guard: g, ns: ns, backend: None, end: make(chan struct{}), ended: make(chan struct{})}
	told, err := l.subscribe()
	if err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	if err := ns.Do(l.choose); err != nil {
		told.end()
		return nil, errors.Join(fmt.Errorf("guard links: %w", err), l.takeOff())
	}
	go l.watch(told)
	return l, nil
}

// Backend is the one in force.
func (l *Links) Backend() Backend { return l.backend }

// choose finds the backend that works here, and takes off what another one left.
func (l *Links) choose() error {
	o := l.guard.opts
	candidates := []Backend{TCX, Clsact, NFTables}
	switch {
	case o.Backend != "":
		candidates = []Backend{o.Backend}
	case o.Volatile:
		candidates = candidates[:1]
	}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	var lacking error
	for _, b := range candidates {
		if b == None {
			return nil
		}
		how := l.method(b)
		err := l.guardThese(how, links)
		if err == nil {
			l.how, l.backend = how, b
			break
		}
		lacking = errors.Join(lacking, fmt.Errorf("%s: %w", b, err))
		_ = how.remove() // what was half done
		if !unsupported(err) {
			return lacking
		}
	}
	if l.how == nil {
		l.guard.opts.Log.Warn("links are not guarded: frames of packet sockets are not seen", "netns", l.ns.Cookie(), "error", lacking)
	}
	for _, b := range []Backend{TCX, Clsact, NFTables} {
		if b != l.backend && o.Backend != None {
			if err := l.method(b).remove(); err != nil && !unsupported(err) {
				l.guard.opts.Log.Warn("another guard was left there", "backend", b, "error", err)
			}
		}
	}
	return nil
}

func (l *Links) guardThese(how method, links []netlink.Link) error {
	for _, link := range links {
		if err := l.guardOne(how, link); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return how.refresh()
}

// guardOne says once that there are more links than are guarded: that is no error, or each one of them would be.
func (l *Links) guardOne(how method, link netlink.Link) error {
	err := how.guard(link)
	if !errors.Is(err, unix.E2BIG) {
		return err
	}
	if !l.full {
		l.guard.opts.Log.Warn("a network namespace has more links than are guarded", "netns", l.ns.Cookie(), "guarded", maxLinks)
	}
	l.full = true
	return nil
}

func (l *Links) method(b Backend) method {
	switch b {
	case TCX:
		most := maxLinks
		if l.ns.Own() {
			most = 0
		}
		return &tcx{l.guard.opts.Programs, l.ns.Cookie(), most}
	case Clsact:
		return &clsact{l.guard.opts.Programs, l.guard.opts.Name}
	default:
		return &table{l.guard.opts.Rules, l.guard.opts.Name}
	}
}

// unsupported tells whether the kernel lacks something, rather than something having gone wrong.
func unsupported(err error) bool {
	for _, lack := range []error{
		ebpf.ErrNotSupported, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOENT, unix.ENOSYS, unix.EINVAL,
	} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}

// Refresh applies changed rules.
func (l *Links) Refresh() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, tabled := l.how.(*table); !tabled || l.off { // programs need no other rules, and to enter a namespace takes its time
		return nil
	}
	return l.ns.Do(l.how.refresh)
}

// Stop ends the watch. What is on the links stays, so that they are guarded without us.
func (l *Links) Stop() {
	select {
	case <-l.end:
	default:
		close(l.end)
	}
	<-l.ended
}

// Close ends the watch and takes the guard off.
func (l *Links) Close() error {
	l.Stop()
	return l.takeOff()
}

func (l *Links) takeOff() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.off = true
	if l.how == nil {
		return nil
	}
	if err := l.ns.Do(l.how.remove); err != nil {
		return fmt.Errorf("take the guard off: %w", err)
	}
	return nil
}

// subscription is what the kernel tells of links, until it has too much to tell at a time (ENOBUFS).
type subscription struct {
	updates chan netlink.LinkUpdate
	failed  chan error
	done    chan struct{}
}

// subscribe has the kernel tell of links from now on.
func (l *Links) subscribe() (*subscription, error) {
	s := &subscription{make(chan netlink.LinkUpdate), make(chan error, 1), make(chan struct{})}
	return s, l.ns.Do(func() error {
		return netlink.LinkSubscribeWithOptions(s.updates, s.done, netlink.LinkSubscribeOptions{
			ErrorCallback: func(err error) {
				select {
				case s.failed <- err:
				default:
				}
			},
		})
	})
}

// end closes the socket: the library does not when it stops reading by itself.
func (s *subscription) end() {
	close(s.done)
	for range s.updates {
	}
}

// watch guards the links that come, until end is closed.
func (l *Links) watch(told *subscription) {
	defer close(l.ended)
	for told != nil {
		ended := l.follow(told)
		told.end()
		if ended {
			return
		}
		told = l.renew()
	}
}

// follow guards the links that come. It says whether end was closed; if not, there is no more to come.
func (l *Links) follow(told *subscription) (ended bool) {
	for {
		select {
		case <-l.end:
			return true
		case u, ok := <-told.updates:
			if !ok {
				return false
			}
			l.apply(u)
		case err := <-told.failed:
			l.guard.opts.Log.Debug("links not told", "netns", l.ns.Cookie(), "error", err)
		}
	}
}

// renewAfter is how long it is to the next attempt to watch links again.
const renewAfter = time.Second

// renew subscribes again, and looks at what was missed. It is nil if end is closed.
func (l *Links) renew() *subscription {
	for first := true; ; first = false {
		told, err := l.subscribe()
		if err == nil {
			if err = l.all(); err == nil {
				return told
			}
			told.end()
		}
		if first {
			l.guard.opts.Log.Error("links are not watched: those that come are not guarded until they are", "netns", l.ns.Cookie(), "error", err)
		}
		select {
		case <-l.end:
			return nil
		case <-time.After(renewAfter):
		}
	}
}

// apply follows one link's coming, change or going.
func (l *Links) apply(u netlink.LinkUpdate) {
	defer l.guard.opts.Moved()
	if l.how == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.ns.Do(func() error {
		if u.Header.Type == unix.RTM_DELLINK {
			return l.how.sweep()
		}
		return l.guardOne(l.how, u.Link)
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		l.guard.opts.Log.Error("link not guarded", "link", u.Attrs().Name, "error", err)
	}
}

// all guards every link that is there.
func (l *Links) all() error {
	if l.how == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ns.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		return errors.Join(l.guardThese(l.how, links), l.how.sweep())
	})
}

// Clear takes off what Clsact and NFTables keep in the calling thread's namespace without our help, under a name.
func Clear(name string) error {
	var failed []error
	for _, how := range []method{&clsact{name: name}, &table{name: name}} {
		if err := how.remove(); err != nil && !unsupported(err) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// arphrd is the number of a link's type (include/uapi/linux/if_arp.h); of all that have another header than
// Ethernet's only that is of interest.
func arphrd(l netlink.Link) uint16 {
	switch l.Attrs().EncapType {
	case "ether":
		return unix.ARPHRD_ETHER
	case "loopback":
		return unix.ARPHRD_LOOPBACK
	default:
		return unix.ARPHRD_NONE
	}
}

// tcx has the kernel keep the programs, pinned, before all others.
type tcx struct {
	programs Programs
	netns    uint64
	most     int
}

func (t *tcx) guard(l netlink.Link) error {
	return t.programs.GuardLink(t.netns, l.Attrs().Index, arphrd(l), t.most)
}
func (t *tcx) sweep() error   { return t.programs.SweepGuard(t.netns) }
func (t *tcx) refresh() error { return nil }
func (t *tcx) remove() error  { return t.programs.Unguard(t.netns) }
