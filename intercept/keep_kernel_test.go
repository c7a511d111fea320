package intercept

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// shelf is an FDStore that outlives the interceptors of a test.
type shelf struct {
	mu    sync.Mutex
	files map[string][]*os.File
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{files: make(map[string][]*os.File)}
	t.Cleanup(func() {
		for _, files := range s.Inherited() {
			for _, f := range files {
				f.Close()
			}
		}
	})
	return s
}

// Inherited gives out duplicates, as a service manager does.
func (s *shelf) Inherited() map[string][]*os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string][]*os.File)
	for name, files := range s.files {
		for _, f := range files {
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				panic(err)
			}
			out[name] = append(out[name], os.NewFile(uintptr(fd), name))
		}
	}
	return out
}

func (s *shelf) Store(name string, fd uintptr) error {
	made, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = append(s.files[name], os.NewFile(uintptr(made), name))
	return nil
}

func (s *shelf) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files[name] {
		f.Close()
	}
	delete(s.files, name)
	return nil
}

// names are those of what is stored, one for each descriptor, sorted.
func (s *shelf) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, files := range s.files {
		for range files {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// put stores the descriptor of a socket or a file that a test has made.
func (s *shelf) put(t *testing.T, name string, c syscall.Conn) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { must(t, s.Store(name, fd)) }))
}

// nextLife is what the next daemon finds: what is remembered, published and stored.
func nextLife(b *bench, s *shelf) func(*bench, *Options) {
	return func(next *bench, o *Options) {
		o.FDStore = s
		if b != nil {
			next.memory = b.memory
			next.kernel.listeners = b.kernel.listeners
		}
	}
}

// dialIn connects from inside a namespace.
func dialIn(t *testing.T, n *netns.NS, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	must(t, n.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

func TestListenersOutliveTheDaemon(t *testing.T) {
	dir, n, shelf := newCgroup(t), newNetNS(t), newShelf(t)
	first := newBench(t, nextLife(nil, shelf))
	startIn(t, dir, n)
	_, err := first.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	ports, _ := first.kernel.listener(n.Cookie())
	want := []string{keptName(n.Cookie(), false), keptName(n.Cookie(), true)}
	if got := shelf.names(); !slices.Equal(got, want) {
		t.Fatalf("stored are %q, want %q", got, want)
	}
	first.stop()

	// Nobody is there, and both connect all the same.
	var waiting []net.Conn
	for _, addr := range []string{fmt.Sprintf("127.0.0.1:%d", ports.Port4), fmt.Sprintf("[::1]:%d", ports.Port6)} {
		c := dialIn(t, n, addr)
		must(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: %v, want that it waits", addr, err)
		}
		waiting = append(waiting, c)
	}
	second := newBench(t, nextLife(first, shelf))
	if now, _ := second.kernel.listener(n.Cookie()); now != ports {
		t.Errorf("the ports were %+v, and are %+v", ports, now)
	}
	for _, c := range waiting { // they came to the listener by themselves, so they are closed
		must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("what had waited was not accepted: %v", err)
		}
	}
	if got := second.Counters().Unsolicited; got != 2 {
		t.Errorf("%d were accepted, want 2", got)
	}
	if got := shelf.names(); !slices.Equal(got, want) {
		t.Errorf("stored are %q, want %q, each once", got, want)
	}
	must(t, second.DetachAll(t.Context()))
	if got := shelf.names(); len(got) > 0 {
		t.Errorf("after detaching %q is stored", got)
	}
}

// TestStoredListenersAreLetGo finds descriptors in the store that no listener of a namespace in use is.
func TestStoredListenersAreLetGo(t *testing.T) {
	dir, n, empty, shelf := newCgroup(t), newNetNS(t), newNetNS(t), newShelf(t)
	first := newBench(t, nextLife(nil, shelf))
	startIn(t, dir, n)
	_, err := first.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	ports, _ := first.kernel.listener(n.Cookie())
	first.stop()
	want := shelf.names()

	listen := func(n *netns.NS, network, addr string) *net.TCPListener {
		l, err := n.Listen(t.Context(), network, addr)
		must(t, err)
		t.Cleanup(func() { l.Close() })
		return l
	}
	v4, _, err := empty.Loopback(t.Context())
	must(t, err)
	defer v4.Close()
	shelf.put(t, keptName(empty.Cookie(), false), v4)                           // of a namespace without an agent
	shelf.put(t, keptName(n.Cookie(), false), listen(n, "tcp4", "127.0.0.1:0")) // another one, besides that in use
	shelf.put(t, keptName(4, false), listen(n, "tcp4", "127.0.0.1:0"))          // under a name that is not its own
	shelf.put(t, keptName(empty.Cookie(), true), listen(empty, "tcp4", originAddr+":0"))
	shelf.put(t, "of-another-version", listen(n, "tcp4", "127.0.0.1:0"))
	file, err := os.Open("/proc/self/status")
	must(t, err)
	defer file.Close()
	shelf.put(t, "netns-7-tcp4", file)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer udp.Close()
	shelf.put(t, "netns-8-tcp4", udp)

	second := newBench(t, nextLife(first, shelf))
	if now, _ := second.kernel.listener(n.Cookie()); now != ports {
		t.Errorf("the ports were %+v, and are %+v", ports, now)
	}
	if got := shelf.names(); !slices.Equal(got, want) {
		t.Errorf("stored are %q, want %q", got, want)
	}
	second.stop()
	// With the store as it is now a third one is none the worse.
	third := newBench(t, nextLife(second, shelf))
	if now, _ := third.kernel.listener(n.Cookie()); now != ports {
		t.Errorf("the ports were %+v, and are %+v", ports, now)
	}
}

// TestStoredListenersGoWithTheNamespace has the last process of a namespace end.
func TestStoredListenersGoWithTheNamespace(t *testing.T) {
	dir, n, shelf := newCgroup(t), newNetNS(t), newShelf(t)
	b := newBench(t, nextLife(nil, shelf))
	_, stop := startIn(t, dir, n)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	if got := shelf.names(); len(got) != 2 {
		t.Fatalf("stored are %q", got)
	}
	stop()
	eventually(t, "they are let go", func() bool { return len(shelf.names()) == 0 })
}

// TestHalfOfTheListenersAreStored has an earlier daemon that died between the two.
func TestHalfOfTheListenersAreStored(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		dir, n, shelf := newCgroup(t), newNetNS(t), newShelf(t)
		first := newBench(t, nextLife(nil, shelf))
		startIn(t, dir, n)
		_, err := first.Attach(t.Context(), Request{Cgroup: dir})
		must(t, err)
		was, _ := first.kernel.listener(n.Cookie())
		first.stop()
		want := shelf.names()
		must(t, shelf.Remove(keptName(n.Cookie(), v6)))
		second := newBench(t, nextLife(first, shelf))
		is, _ := second.kernel.listener(n.Cookie())
		if (is.Port4 == was.Port4) != v6 || (is.Port6 == was.Port6) == v6 {
			t.Errorf("without the one of IPv6=%t: %+v became %+v", v6, was, is)
		}
		if got := shelf.names(); !slices.Equal(got, want) {
			t.Errorf("stored are %q, want %q", got, want)
		}
		second.stop()
	}
}

// unguardable are links that no program can be put on, for a cause that is none of the kernel's lacks.
type unguardable struct{ Guard }

func (unguardable) GuardLink(uint64, int, uint16, int) error { return unix.ENOSPC }
func (unguardable) GuardedNamespaces() []uint64              { return nil }
func (unguardable) Kept() ([]uint64, error)                  { return nil, nil }
func (unguardable) Unguard(uint64) error                     { return nil }

// TestNamespaceThatCannotBeGuardedIsNotKept: each attempt would store two listeners more, until there is no room for others.
func TestNamespaceThatCannotBeGuardedIsNotKept(t *testing.T) {
	dir, n, shelf := newCgroup(t), newNetNS(t), newShelf(t)
	b := newBench(t, func(_ *bench, o *Options) {
		o.FDStore, o.Guard, o.GuardBackend = shelf, unguardable{}, guard.TCX
	})
	startIn(t, dir, n)
	if _, err := b.Attach(t.Context(), Request{Cgroup: dir}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("attached: %v", err)
	}
	if got := shelf.names(); len(got) > 0 || b.listens(n) {
		t.Errorf("stored are %q, and it is listened: %t", got, b.listens(n))
	}
}
