package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// need skips for want of root, which SLUICE_KERNEL_TESTS=require turns into a failure.
func need(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// fresh makes a network namespace, lo down, which lives until the test ends.
func fresh(t testing.TB) *NS {
	t.Helper()
	need(t)
	runtime.LockOSThread()
	home, err := vnetns.Get()
	must(t, err)
	defer home.Close()
	handle, err := vnetns.New()
	must(t, err)
	defer handle.Close()
	must(t, vnetns.Set(home))
	runtime.UnlockOSThread()
	n, err := Open(filepath.Join("/proc/self/fd", strconv.Itoa(int(handle))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dummy gives the namespace a link with an address on which nobody else answers.
func dummy(t testing.TB, n *NS, addr string) {
	t.Helper()
	must(t, n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}
		if err := h.LinkAdd(link); err != nil {
			return err
		}
		peer, err := h.LinkByName("v1")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		return errors.Join(h.AddrAdd(link, a), h.LinkSetUp(link), h.LinkSetUp(peer))
	}))
}

func echo(t testing.TB, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func local(t testing.TB, l *net.TCPListener) netip.AddrPort {
	t.Helper()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func option(t *testing.T, c syscall.Conn, level, opt int) int {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	var value int
	must(t, raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, opt) }))
	must(t, err)
	return value
}

func TestCookieAndInodeTellNamespacesApart(t *testing.T) {
	a, b := fresh(t), fresh(t)
	own, err := Current()
	must(t, err)
	defer own.Close()
	again, err := OfPID(unix.Gettid())
	must(t, err)
	defer again.Close()
	if a.Cookie() == b.Cookie() || a.Cookie() == own.Cookie() || a.Inode() == b.Inode() {
		t.Errorf("cookies %d, %d, own %d; inodes %d, %d", a.Cookie(), b.Cookie(), own.Cookie(), a.Inode(), b.Inode())
	}
	if own.Cookie() != again.Cookie() || own.Inode() != again.Inode() || own.Cookie() == 0 {
		t.Errorf("own namespace is %d/%d by thread, %d/%d by pid", own.Cookie(), own.Inode(), again.Cookie(), again.Inode())
	}
}

func TestOpenRefusesWhatIsNoNetworkNamespace(t *testing.T) {
	need(t)
	plain := filepath.Join(t.TempDir(), "plain")
	must(t, os.WriteFile(plain, nil, 0o600))
	for _, path := range []string{plain, "/proc/self/ns/mnt", "/proc/self/ns/absent"} {
		if n, err := Open(path); err == nil {
			n.Close()
			t.Errorf("%s was opened", path)
		}
	}
	if _, err := OfPID(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such process: %v", err)
	}
}

func TestLoopbackListenersInAFreshNamespace(t *testing.T) {
	n := fresh(t) // lo is down
	v4, v6, err := n.Loopback(t.Context())
	must(t, err)
	if v6 == nil {
		t.Fatal("no listener on ::1")
	}
	for _, l := range []*net.TCPListener{v4, v6} {
		echo(t, l)
		if got := option(t, l, unix.SOL_SOCKET, unix.SO_PROTOCOL); got != unix.IPPROTO_TCP {
			t.Errorf("listener's protocol is %d", got)
		}
		if got := option(t, l, unix.SOL_SOCKET, unix.SO_REUSEADDR); got != 0 {
			t.Error("listener reuses addresses")
		}
		c, err := n.Dial(t.Context(), local(t, l))
		must(t, err)
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		_, err = c.Write([]byte("ping"))
		must(t, err)
		must(t, c.CloseWrite())
		got, err := io.ReadAll(c)
		must(t, err)
		if string(got) != "ping" {
			t.Errorf("echo answered %q", got)
		}
		for name, opt := range map[string][2]int{"nodelay": {unix.IPPROTO_TCP, unix.TCP_NODELAY}, "keepalive": {unix.SOL_SOCKET, unix.SO_KEEPALIVE}} {
			if option(t, c, opt[0], opt[1]) == 0 {
				t.Errorf("%s is off", name)
			}
		}
		if c.RemoteAddr().String() != l.Addr().String() {
			t.Errorf("peer is %s", c.RemoteAddr())
		}
		c.Close()
		if _, err := net.DialTimeout("tcp", l.Addr().String(), time.Second); err == nil {
			t.Error("the listener can be reached from outside of its namespace")
		}
	}
}

func TestLoopbackWithoutIPv6(t *testing.T) {
	n := fresh(t)
	must(t, n.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0),
		)
	}))
	v4, v6, err := n.Loopback(t.Context())
	must(t, err)
	defer v4.Close()
	if v6 != nil {
		v6.Close()
		t.Error("a listener on ::1 although IPv6 is disabled")
	}
}

func TestDialErrors(t *testing.T) {
	n := fresh(t)
	v4, _, err := n.Loopback(t.Context())
	must(t, err)
	closed := local(t, v4)
	v4.Close()
	for name, c := range map[string]struct {
		dst  netip.AddrPort
		want error
	}{
		"nobody listens": {closed, unix.ECONNREFUSED},
		"no route":       {netip.MustParseAddrPort("192.0.2.1:443"), unix.ENETUNREACH},
		"no address":     {netip.AddrPort{}, nil},
		"a zone":         {netip.MustParseAddrPort("[fe80::1%v0]:443"), nil},
	} {
		_, err := n.Dial(t.Context(), c.dst)
		var op *net.OpError
		if !errors.As(err, &op) || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDialHonoursDeadlineAndCancel(t *testing.T) {
	n := fresh(t)
	dummy(t, n, "192.0.2.1/24")
	silent := netip.MustParseAddrPort("192.0.2.9:443") // nobody answers ARP
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := n.Dial(ctx, silent); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := n.Dial(ctx, silent)
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("cancel: %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
}

// threads is how many threads this process has now.
func threads(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	must(t, err)
	return len(entries)
}

func TestPendingDialsHoldNoThread(t *testing.T) {
	n := fresh(t)
	dummy(t, n, "192.0.2.1/24")
	ctx, cancel := context.WithCancel(t.Context())
	const pending = 200
	before := threads(t)
	ended := make(chan error, pending)
	for range pending {
		go func() {
			_, err := n.Dial(ctx, netip.MustParseAddrPort("192.0.2.9:443"))
			ended <- err
		}()
	}
	// All are under way once the namespace counts their sockets.
	for begin := time.Now(); ; runtime.Gosched() {
		var text []byte
		must(t, n.Do(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/tcp")
			return err
		}))
		if strings.Count(string(text), "\n")-1 == pending {
			break
		}
		if time.Since(begin) > 2*time.Second {
			t.Fatalf("only %d sockets", strings.Count(string(text), "\n")-1)
		}
	}
	if more := threads(t) - before; more > pending/4 {
		t.Errorf("%d pending connects hold %d threads", pending, more)
	}
	cancel()
	for range pending {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("pending dial ended with %v", err)
		}
	}
}

func TestDoLeavesNoThreadInside(t *testing.T) {
	n := fresh(t)
	for range 50 {
		must(t, n.Do(func() error { return nil }))
	}
	entries, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, e := range entries {
		var st unix.Stat_t
		if err := unix.Stat("/proc/self/task/"+e.Name()+"/ns/net", &st); err == nil && st.Ino == n.Inode() {
			t.Errorf("thread %s is inside", e.Name())
		}
	}
}

func TestThreadThatCannotComeBackEnds(t *testing.T) {
	tid := os.Getpid()
	// The process's first thread is parked by the runtime for good instead of ended; the
	// attempt after that gets another one.
	for tid == os.Getpid() {
		n := fresh(t)
		err := n.Do(func() error {
			tid = unix.Gettid()
			return n.home.Close() // no way home
		})
		if err == nil {
			t.Fatal("no error although the thread could not leave")
		}
	}
	for begin := time.Now(); ; runtime.Gosched() {
		if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(tid)); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Since(begin) > 2*time.Second {
			t.Fatal("the thread lives on inside the namespace")
		}
	}
}

func TestDoAfterCloseAndGoexit(t *testing.T) {
	n := fresh(t)
	if err := n.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("a function that does not return is no error")
	}
	n.Close()
	if err := n.Do(func() error { return nil }); err == nil {
		t.Error("a closed namespace was entered")
	}
}

func BenchmarkDial(b *testing.B) {
	n := fresh(b)
	v4, _, err := n.Loopback(b.Context())
	must(b, err)
	echo(b, v4)
	dst := local(b, v4)
	for b.Loop() {
		c, err := n.Dial(b.Context(), dst)
		must(b, err)
		_ = c.SetLinger(0)
		c.Close()
	}
}

func BenchmarkNetDial(b *testing.B) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(b, err)
	echo(b, l)
	var d net.Dialer
	d.SetMultipathTCP(false)
	for b.Loop() {
		c, err := d.DialContext(b.Context(), "tcp4", l.Addr().String())
		must(b, err)
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}
