package bpf_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

func TestMain(m *testing.M) {
	if os.Getenv(agentVariable) != "" {
		if err := runAgent(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(daemonVariable); dir != "" {
		fmt.Fprintln(os.Stderr, runDaemon(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func htonl(v uint32) uint32 {
	return binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, v))
}

// eventually waits for something that another process or the kernel brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(time.Millisecond) { // what is waited for needs the processor
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func load(t testing.TB, opts bpf.Options) *bpf.Redirect {
	t.Helper()
	r, err := bpf.Load(opts)
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// listenIn opens a plain TCP listener in a namespace and tells the namespace's cookie.
func listenIn(t testing.TB, netns, addr string) (l *net.TCPListener, cookie uint64) {
	t.Helper()
	must(t, kerneltest.In(netns, func() error {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		any, err := c.Listen(t.Context(), "tcp", addr)
		if err != nil {
			return err
		}
		l = any.(*net.TCPListener)
		raw, err := l.SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		err = raw.Control(func(fd uintptr) {
			cookie, inner = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		})
		return errors.Join(err, inner)
	}))
	t.Cleanup(func() { _ = l.Close() })
	return l, cookie
}

func portOf(l net.Listener) uint16 { return l.Addr().(*net.TCPAddr).AddrPort().Port() }

// doorman stands for the daemon: it takes each connection's flow and tells the
// client where it had been going, or "no flow".
type doorman struct {
	r      *bpf.Redirect
	cookie uint64
	port   uint16
	noFlow atomic.Int64
	pid    atomic.Uint32
	group  sync.WaitGroup
}

func (d *doorman) serve(t testing.TB, l *net.TCPListener) {
	d.group.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			d.group.Go(func() { d.answer(t, c) })
		}
	})
}

func (d *doorman) answer(t testing.TB, c *net.TCPConn) {
	defer func() { _ = c.Close() }()
	flow, ok, err := d.r.Take(d.cookie, addrPort(c.RemoteAddr()), addrPort(c.LocalAddr()))
	switch {
	case err != nil:
		t.Errorf("take: %v", err)
	case !ok:
		d.noFlow.Add(1)
		_, _ = c.Write([]byte("no flow"))
	default:
		d.pid.Store(flow.PID)
		_, _ = fmt.Fprint(c, flow.Dst)
	}
	_ = c.CloseWrite()
	// Closing before the client's data is read would reset the connection.
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, _ = io.Copy(io.Discard, c)
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// welcome makes a doorman for a namespace and publishes it.
func welcome(t testing.TB, r *bpf.Redirect, netns string) *doorman {
	t.Helper()
	d := &doorman{r: r}
	t.Cleanup(d.group.Wait) // runs after the listeners are closed
	var l bpf.Listener
	four, cookie := listenIn(t, netns, "127.0.0.1:0")
	d.cookie, l.Port4 = cookie, portOf(four)
	d.serve(t, four)
	if hasLoopback6(netns) {
		six, _ := listenIn(t, netns, "[::1]:0")
		l.Port6 = portOf(six)
		d.serve(t, six)
	}
	d.port = l.Port4
	must(t, r.SetListener(cookie, l))
	return d
}

func hasLoopback6(netns string) bool {
	return kerneltest.In(netns, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Bind(fd, &unix.SockaddrInet6{Addr: [16]byte{15: 1}})
	}) == nil
}

// origin is the server that nobody may reach but sluice: it counts who does.
type origin struct {
	tcp, udp atomic.Int64
}

func newOrigin(t testing.TB, netns string) *origin {
	t.Helper()
	o := &origin{}
	var group sync.WaitGroup
	t.Cleanup(group.Wait) // runs after the sockets are closed
	for _, port := range []int{443, 8443, 80} {
		l, _ := listenIn(t, netns, fmt.Sprintf("[::]:%d", port)) // dual stack
		group.Go(func() {
			for {
				c, err := l.AcceptTCP()
				if err != nil {
					return
				}
				o.tcp.Add(1)
				_, _ = c.Write([]byte("origin"))
				_ = c.Close()
			}
		})
	}
	var p net.PacketConn
	must(t, kerneltest.In(netns, func() (err error) {
		var c net.ListenConfig
		p, err = c.ListenPacket(t.Context(), "udp", "[::]:443")
		return err
	}))
	group.Go(func() {
		for buf := make([]byte, 2048); ; {
			if _, _, err := p.ReadFrom(buf); err != nil {
				return
			}
			o.udp.Add(1)
		}
	})
	t.Cleanup(func() { _ = p.Close() })
	return o
}

// world is an agent behind the hooks, a doorman, and an origin it must not reach.
type world struct {
	*bpf.Redirect
	kerneltest.Pair
	t       testing.TB
	cgroup  string
	pins    string
	agent   *agent
	doorman *doorman
	origin  *origin
}

// newWorld makes one with ports 443 and 8443 bound.
func newWorld(t testing.TB, opts bpf.Options) *world {
	t.Helper()
	kerneltest.Require(t)
	w := &world{t: t, cgroup: kerneltest.Cgroup(t), Pair: kerneltest.NewPair(t), pins: filepath.Join(kerneltest.BPFFS(t), "sluice")}
	opts.PinDir = w.pins
	w.Redirect = load(t, opts)
	must(t, w.SetPorts([]uint16{443, 8443}))
	w.origin = newOrigin(t, w.Server)
	w.doorman = welcome(t, w.Redirect, w.Agent)
	must(t, w.Attach(w.cgroup))
	w.agent = newAgent(t, w.cgroup, w.Agent)
	return w
}

// proxied asserts that an order's connection came to the doorman with its destination exact.
func (w *world) proxied(t testing.TB, o order) {
	t.Helper()
	got := w.agent.do(o)
	if want := plain(o.Dst); got.Error != "" || got.Said != want || got.Peer != o.Dst {
		t.Errorf("%+v: got %+v, want said %s and peer %s", o, got, want, o.Dst)
	}
	w.untouched(t)
}

// refusedAtOnce asserts that the kernel answers ECONNREFUSED without waiting for anybody. Of a few
// tries the quickest counts: a busy machine may take an agent off its CPU.
func (a *agent) refusedAtOnce(t testing.TB, o order) {
	t.Helper()
	quickest := time.Hour
	for range 5 {
		got := a.do(o)
		if got.Error != "ECONNREFUSED" {
			t.Errorf("%+v: got %+v", o, got)
			return
		}
		if quickest = min(quickest, got.Took); quickest < 50*time.Millisecond {
			return
		}
	}
	t.Errorf("%+v: refused after %s", o, quickest)
}

// untouched asserts that nothing came to the origin.
func (w *world) untouched(t testing.TB) {
	t.Helper()
	if tcp, udp := w.origin.tcp.Load(), w.origin.udp.Load(); tcp+udp != 0 {
		t.Errorf("%d connections and %d datagrams reached the origin", tcp, udp)
	}
}

// plain is an address without v4-in-6.
func plain(addr string) string {
	ap := netip.MustParseAddrPort(addr)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}

func (w *world) flows(t testing.TB) int {
	t.Helper()
	n, err := w.FlowCount()
	must(t, err)
	return n
}

func (w *world) count(t testing.TB, name string) uint64 {
	t.Helper()
	all, err := w.Counters()
	must(t, err)
	n, ok := all[name]
	if !ok {
		t.Fatalf("no counter %q", name)
	}
	return n
}

// inode is a cgroup's id.
func inode(t testing.TB, dir string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	return st.Ino
}
