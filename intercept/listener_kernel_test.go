package intercept

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

func (b *bench) listens(n *netns.NS) bool {
	_, ok := b.kernel.listener(n.Cookie())
	return ok
}

func TestListenersAreThereWhenAttachReturns(t *testing.T) {
	dir, one, two := newCgroup(t), newNetNS(t), newNetNS(t)
	b := newBench(t, nil)
	child := filepath.Join(dir, "child")
	must(t, os.Mkdir(child, 0o755))
	startIn(t, dir, one) // lo is down in both
	startIn(t, child, two)
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	want := []uint64{one.Cookie(), two.Cookie()}
	slices.Sort(want)
	if !slices.Equal(target.Namespaces, want) {
		t.Errorf("namespaces %v, want %v", target.Namespaces, want)
	}
	for _, n := range []*netns.NS{one, two} {
		l, ok := b.kernel.listener(n.Cookie())
		if !ok || l.Port4 == 0 || l.Port6 == 0 {
			t.Errorf("listener %+v, %t", l, ok)
		}
	}
}

func TestListenerFoundWhenAProcessEntersANewNamespace(t *testing.T) {
	dir, first, second := newCgroup(t), newNetNS(t), newNetNS(t)
	b := newBench(t, nil)
	startIn(t, dir, first)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	pid, stop := startIn(t, dir, second)
	b.kernel.events <- bpf.EventNoListener{} // cannot be read: the ones behind it are
	b.kernel.events <- bpf.EventNoListener{Cookie: second.Cookie(), PID: uint32(pid)}
	eventually(t, "a listener in the new namespace", func() bool { return b.listens(second) })
	stop()
	eventually(t, "the listener is gone with the last process", func() bool { return !b.listens(second) })
	if !b.listens(first) {
		t.Error("the other namespace lost its listener too")
	}
	eventually(t, "its idle upstream connections are dropped", func() bool {
		b.desk.mu.Lock()
		defer b.desk.mu.Unlock()
		return slices.Equal(b.desk.closed, []uint64{second.Cookie()})
	})
}

func TestListenerFoundWhenTheCgroupIsPopulated(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	startIn(t, dir, n) // no event is sent
	eventually(t, "a listener", func() bool { return b.listens(n) })
}

func TestListenerStaysWhileAnyProcessIsLeft(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	_, stopFirst := startIn(t, dir, n)
	_, stopSecond := startIn(t, dir, n)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	before, _ := b.kernel.listener(n.Cookie())
	b.ops.Lock()
	s := b.allSpaces()[0]
	held := s.holder.pid
	b.ops.Unlock()
	stopFirst()
	eventually(t, "another process is waited for", func() bool {
		b.ops.Lock()
		defer b.ops.Unlock()
		return s.holder != nil && s.holder.pid != held
	})
	if now, ok := b.kernel.listener(n.Cookie()); !ok || now != before {
		t.Errorf("listener is %v, %t; was %v", now, ok, before)
	}
	stopSecond()
	eventually(t, "no listener", func() bool { return !b.listens(n) })
}

func TestOutsiderCannotMakeUsListen(t *testing.T) {
	dir, outside, n := newCgroup(t), newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	stranger, _ := startIn(t, outside, n)
	b.kernel.events <- bpf.EventNoListener{Cookie: n.Cookie(), PID: uint32(stranger)}
	b.kernel.events <- bpf.EventNoListener{Cookie: n.Cookie(), PID: 1 << 30} // no such process
	// Events are handled in order: once a further one is, these two are.
	inside := newNetNS(t)
	pid, _ := startIn(t, dir, inside)
	b.kernel.events <- bpf.EventNoListener{PID: uint32(pid)}
	eventually(t, "the insider's listener", func() bool { return b.listens(inside) })
	if b.listens(n) {
		t.Error("we listen where only an outsider is")
	}
}

// TestOneTargetLeavesNamespacesForOthers, whatever number of them its processes are in.
func TestOneTargetLeavesNamespacesForOthers(t *testing.T) {
	const most = 2
	dir, other := newCgroup(t), newCgroup(t)
	b := newBench(t, func(_ *bench, o *Options) { o.MaxNamespaces = most })
	var pids []int
	var end []func()
	for range most + 2 {
		pid, stop := startIn(t, dir, newNetNS(t))
		pids, end = append(pids, pid), append(end, stop)
	}
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	listening := func() int { _, n := b.kernel.counts(); return n }
	if n := listening(); n != most {
		t.Fatalf("it has %d of %d", n, most)
	}
	theirs := newNetNS(t)
	startIn(t, other, theirs)
	_, err = b.Attach(t.Context(), Request{Cgroup: other})
	must(t, err)
	if !b.listens(theirs) {
		t.Error("another target has none")
	}

	// The kernel tells of one that is refused again and again. It is let in when there is room.
	last := netnsOf(t, pids[most+1])
	b.kernel.events <- bpf.EventNoListener{Cookie: last.Cookie(), PID: uint32(pids[most+1])}
	further, _ := startIn(t, other, newNetNS(t)) // events are handled in order
	b.kernel.events <- bpf.EventNoListener{PID: uint32(further)}
	eventually(t, "the other one's second", func() bool { return listening() == most+2 })
	if b.listens(last) {
		t.Error("one more than it may have")
	}
	for _, stop := range end[:most+1] {
		stop()
	}
	eventually(t, "room", func() bool { return listening() < most+2 })
	b.kernel.events <- bpf.EventNoListener{Cookie: last.Cookie(), PID: uint32(pids[most+1])}
	eventually(t, "the last one's listener", func() bool { return b.listens(last) })
}

// TestOneNamespaceKeepsNoTargetFromItsAttach: a process may have made a namespace in which nobody can listen.
func TestOneNamespaceKeepsNoTargetFromItsAttach(t *testing.T) {
	dir, alone := newCgroup(t), newCgroup(t)
	b := newBench(t, nil)
	spoilt, good := newNetNS(t), newNetNS(t)
	must(t, spoilt.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetName(lo, "spoilt")
	}))
	startIn(t, dir, spoilt)
	startIn(t, dir, good)
	if _, err := b.Attach(t.Context(), Request{Cgroup: dir}); err != nil {
		t.Errorf("one of two: %v", err)
	}
	if !b.listens(good) || b.listens(spoilt) {
		t.Errorf("listens in the good one: %t, in the other: %t", b.listens(good), b.listens(spoilt))
	}
	startIn(t, alone, spoilt)
	if _, err := b.Attach(t.Context(), Request{Cgroup: alone}); err == nil {
		t.Error("attached, and nobody listens for it")
	}
}

// netnsOf is the network namespace of a process, until the test ends.
func netnsOf(t *testing.T, pid int) *netns.NS {
	t.Helper()
	n, err := netns.OfPID(pid)
	must(t, err)
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func TestRunIsPreparedBeforeItsCommandStarts(t *testing.T) {
	dir, outside, n := newCgroup(t), newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	caller, _ := startIn(t, outside, n)
	target, err := b.Attach(t.Context(), Request{Kind: KindRun, Cgroup: dir, PID: caller})
	must(t, err)
	if !b.listens(n) {
		t.Fatal("no listener yet")
	}
	_, stop := startIn(t, dir, n)
	stop()
	if !b.listens(n) {
		t.Error("the prepared listener went with a process")
	}
	must(t, b.Detach(t.Context(), target.ID))
	if attached, listeners := b.kernel.counts(); attached+listeners+b.memory.len() != 0 {
		t.Errorf("left behind: %d attached, %d listeners, %d rows", attached, listeners, b.memory.len())
	}
}

func TestRunEndsWithItsCgroup(t *testing.T) {
	dir := newCgroup(t)
	b := newBench(t, nil)
	_, err := b.Attach(t.Context(), Request{Kind: KindRun, Cgroup: dir, PID: os.Getpid()})
	must(t, err)
	removeCgroup(dir)
	eventually(t, "the target is gone", func() bool { return len(b.Targets()) == 0 })
	eventually(t, "nothing is left", func() bool {
		attached, listeners := b.kernel.counts()
		return attached+listeners+b.memory.len() == 0
	})
}

func TestAcceptSurvivesAFullFileTable(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	startIn(t, dir, n)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	l, _ := b.kernel.listener(n.Cookie())
	// The client's socket is made before descriptors run out.
	var client int
	must(t, n.Do(func() (err error) {
		client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	defer unix.Close(client)
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}))
	err = unix.Connect(client, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(l.Port4)})
	func() {
		defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
		must(t, err)
		eventually(t, "a failed accept", func() bool { return b.Counters().AcceptErrors > 0 })
	}()
	eventually(t, "accepted after all", func() bool { return b.Counters().Accepted == 1 })
}

// TestDestroyedListenerIsOpenedAgain: whoever has CAP_NET_ADMIN in a namespace may destroy its sockets, the daemon's among them.
func TestDestroyedListenerIsOpenedAgain(t *testing.T) {
	s := newStreet(t, onKernel(t, newRedirect(t)), echoBack)
	r := &road{street: s, dir: s.target.Cgroup}
	const talk = "s.sendall(b'one'); print(s.recv(3).decode(), end='')"
	if got := r.python(t, talk); got != "one" {
		t.Fatalf("got %q", got)
	}
	published, err := s.Interceptor.opts.Listeners.Listeners()
	must(t, err)
	shell(t, r.dir, r.ns, fmt.Sprintf("ss -K -ltn sport = :%d", published[r.ns.Cookie()].Port4))
	eventually(t, "it is there again", func() bool { return r.python(t, talk) == "one" })
	if n := s.Counters(); n.Adopted != 2 || n.AcceptErrors != 0 {
		t.Errorf("counters %+v: want the namespace adopted once more, and no errors as if there were no room", n)
	}
}

func TestFailedListenerLeavesNothing(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	startIn(t, dir, n)
	broken := errors.New("map full")
	b.kernel.set("listener", broken)
	if _, err := b.Attach(t.Context(), Request{Cgroup: dir}); err == nil {
		t.Fatal("attached without a listener")
	}
	assertNothing(t, b)
	b.kernel.set("listener", nil)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
}

// assertNothing asserts that no trace of an attach is left.
func assertNothing(t *testing.T, b *bench) {
	t.Helper()
	attached, listeners := b.kernel.counts()
	if attached+listeners+b.memory.len()+len(b.Targets())+len(b.allSpaces()) != 0 {
		t.Errorf("left behind: %d attached, %d listeners, %d rows, %d targets, %d namespaces",
			attached, listeners, b.memory.len(), len(b.Targets()), len(b.allSpaces()))
	}
	b.opts.Dialer.mu.Lock()
	defer b.opts.Dialer.mu.Unlock()
	if n := len(b.opts.Dialer.homes); n != 0 {
		t.Errorf("%d namespaces are held open", n)
	}
}
