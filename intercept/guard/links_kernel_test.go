package guard_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

func TestMain(m *testing.M) {
	kerneltest.Main(map[string]kerneltest.Child{"shoot": shoot})
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// shot is one thing to send, in the agent's cgroup and namespace.
type shot struct {
	How  string // frame, packet (of a link without a header), raw, udplite, tcp or udp
	Link string // of a frame
	Dst  string
}

// shoot answers how sending went: an errno's name, or "" for success.
func shoot(in json.RawMessage) (any, error) {
	var s shot
	if err := json.Unmarshal(in, &s); err != nil {
		return nil, err
	}
	ap := netip.MustParseAddrPort(s.Dst)
	err := fire(s, ap)
	errno := unix.Errno(0)
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno), nil
	}
	return "", err
}

func fire(s shot, ap netip.AddrPort) error {
	var sa unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{}, Port: int(ap.Port())}
	family := unix.AF_INET
	if ap.Addr().Is4() {
		sa = &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}
	}
	datagram := []byte{0x9c, 0x40, byte(ap.Port() >> 8), byte(ap.Port()), 0, 12, 0, 0, 'l', 'e', 'a', 'k'}
	open := func(kind, proto int) (int, error) {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 2})
		}
		return fd, err
	}
	switch s.How {
	case "frame", "packet":
		i, err := net.InterfaceByName(s.Link)
		if err != nil {
			return err
		}
		kind := map[string]int{"frame": unix.SOCK_RAW, "packet": unix.SOCK_DGRAM}[s.How]
		fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		ip := []byte{0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1}
		if s.How == "packet" {
			frame := append(ip, datagram...)
			return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: binary.BigEndian.Uint16([]byte{0, 8})})
		}
		frame := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 0}, append(ip, datagram...)...)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: binary.BigEndian.Uint16([]byte{0, 8})})
	case "raw":
		fd, err := open(unix.SOCK_RAW, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		switch to := sa.(type) { // the port of a raw socket is a protocol
		case *unix.SockaddrInet4:
			to.Port = 0
		case *unix.SockaddrInet6:
			to.Port = 0
		}
		return unix.Sendto(fd, datagram, 0, sa)
	case "udplite", "udp":
		proto := map[string]int{"udplite": unix.IPPROTO_UDPLITE}[s.How]
		fd, err := open(unix.SOCK_DGRAM, proto)
		if err != nil {
			return err
		}
		return unix.Sendto(fd, []byte("leak"), 0, sa)
	default:
		fd, err := open(unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		return unix.Connect(fd, sa)
	}
}

// scene is an agent's namespace beside an origin's, with a sniffer there.
type scene struct {
	kerneltest.Pair
	t      testing.TB
	cgroup string
	ns     *netns.NS
	leaked atomic.Int64
}

func newScene(t testing.TB) *scene {
	t.Helper()
	kerneltest.Require(t)
	s := &scene{t: t, Pair: kerneltest.NewPair(t), cgroup: kerneltest.Cgroup(t)}
	var err error
	s.ns, err = netns.Open(s.Agent)
	must(t, err)
	t.Cleanup(func() { _ = s.ns.Close() })
	s.sniff(s.Server, "eth0")
	return s
}

// sniff counts what must not arrive at a link, in any namespace.
func (s *scene) sniff(in, link string) {
	var fd int
	must(s.t, kerneltest.In(in, func() (err error) {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}))
	}))
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 2048); ; {
			select {
			case <-end:
				return
			default:
			}
			if n, err := unix.Read(fd, buf); err == nil && leaks(buf[:n]) {
				s.leaked.Add(1)
			}
		}
	}()
	s.t.Cleanup(func() { close(end); <-done; _ = unix.Close(fd) })
}

// leaks says whether a frame is for port 443 of the origin. The number alone stands in a link's random address or in
// a checksum, too.
func leaks(frame []byte) bool {
	for _, origin := range []string{"10.77.0.1", "fd77::1"} {
		for rest := frame; ; {
			_, ports, ok := bytes.Cut(rest, netip.MustParseAddr(origin).AsSlice())
			if !ok {
				break
			}
			if len(ports) >= 4 && binary.BigEndian.Uint16(ports[2:]) == 443 {
				return true
			}
			rest = ports
		}
	}
	return false
}

// shoot sends one thing from the agent's cgroup, or from another one.
func (s *scene) shoot(cgroup string, x shot) (errno string) {
	s.t.Helper()
	must(s.t, kerneltest.Call(s.t, cgroup, s.Agent, "shoot", x, &errno))
	return errno
}

func (s *scene) in(args ...string) {
	s.t.Helper()
	must(s.t, kerneltest.In(s.Agent, func() error {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return errors.New(strings.Join(args, " ") + ": " + string(out))
		}
		return nil
	}))
}

func (s *scene) said(argv ...string) (out string) {
	s.t.Helper()
	must(s.t, kerneltest.In(s.Agent, func() error {
		text, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		out = string(text)
		return err
	}))
	return out
}

func inode(t testing.TB, dir string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	return st.Ino
}

// TestProgramsOnLinks has frames sent by links of every kind that this kernel has, those that come later
// included, with either backend that runs the programs.
func TestProgramsOnLinks(t *testing.T) {
	for _, backend := range []guard.Backend{guard.TCX, guard.Clsact} {
		t.Run(string(backend), func(t *testing.T) {
			s := newScene(t)
			r, err := bpf.Load(bpf.Options{PinDir: filepath.Join(kerneltest.BPFFS(t), "sluice")})
			must(t, err)
			t.Cleanup(func() { _ = r.Close() })
			must(t, r.SetPorts([]uint16{443}))
			must(t, r.Attach(s.cgroup))
			frame := func(link string) shot { return shot{How: "frame", Link: link, Dst: "10.77.0.1:443"} }
			if got := s.shoot(s.cgroup, frame("eth0")); got != "" {
				t.Fatalf("without a guard: %s", got)
			}
			eventually(t, "the sniffer sees what leaks", func() bool { return s.leaked.Swap(0) > 0 })
			links, err := guard.New(guard.Options{Programs: r, Backend: backend}).Protect(s.ns)
			must(t, err)
			if links.Backend() != backend {
				t.Fatalf("backend %s", links.Backend())
			}
			if got := s.shoot(s.cgroup, frame("eth0")); got != "ENOBUFS" {
				t.Errorf("eth0: %q", got)
			}
			if got := s.shoot(kerneltest.Cgroup(t), frame("eth0")); got != "" || s.leaked.Swap(0) == 0 {
				eventually(t, "another cgroup's goes through", func() bool { return s.leaked.Swap(0) > 0 })
			}
			guarded := func(link string) {
				t.Helper()
				eventually(t, link+" is guarded", func() bool { return s.shoot(s.cgroup, frame(link)) == "ENOBUFS" })
			}
			s.in("link", "add", "mac0", "link", "eth0", "type", "macvlan", "mode", "bridge")
			s.in("link", "set", "mac0", "up")
			guarded("mac0")
			s.in("link", "add", "br0", "type", "bridge")
			s.in("link", "set", "br0", "up")
			guarded("br0")
			s.in("link", "set", "br0", "down")
			s.in("link", "set", "br0", "name", "renamed")
			s.in("link", "set", "renamed", "up")
			guarded("renamed")
			s.in("tuntap", "add", "dev", "tun0", "mode", "tun")
			s.in("link", "set", "tun0", "up")
			dropped := func() uint64 {
				all, err := r.Counters()
				must(t, err)
				return all["dropped_link_udp"]
			}
			eventually(t, "tun0 is guarded", func() bool {
				before := dropped()
				s.shoot(s.cgroup, shot{How: "packet", Link: "tun0", Dst: "10.77.0.1:443"})
				return dropped() == before+1
			})
			before := dropped()
			s.shoot(s.cgroup, shot{How: "packet", Link: "tun0", Dst: "10.77.0.1:53"})
			if dropped() != before {
				t.Error("tun0: a port that is not bound")
			}
			s.in("link", "add", "vx0", "type", "vxlan", "id", "5", "dstport", "4789", "remote", "10.77.0.1", "dev", "eth0")
			s.in("link", "set", "vx0", "up")
			guarded("vx0")
			// A link that another namespace had is moved in; then made again under its name.
			for range 2 {
				outside := kerneltest.NetNS(t)
				must(t, kerneltest.In(outside, func() error {
					_, err := exec.Command("ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1").CombinedOutput()
					if err == nil {
						_, err = exec.Command("ip", "link", "set", "late0", "netns", filepath.Base(s.Agent)).CombinedOutput()
					}
					return err
				}))
				s.in("link", "set", "late0", "up")
				guarded("late0")
				s.in("link", "del", "late0")
			}
			s.leaked.Store(0)
			if got := s.shoot(s.cgroup, frame("eth0")); got != "ENOBUFS" || s.leaked.Load() != 0 {
				t.Errorf("in the end: %q, %d leaked", got, s.leaked.Load())
			}
			links.Stop() // as a daemon that dies: what is on the links stays
			if got := s.shoot(s.cgroup, frame("eth0")); got != "ENOBUFS" {
				t.Errorf("stopped: %q", got)
			}
			// The next one takes over, and takes off what the other backend would have left.
			again, err := guard.New(guard.Options{Programs: r, Backend: backend}).Protect(s.ns)
			must(t, err)
			guarded("eth0")
			if backend == guard.Clsact {
				if n := strings.Count(s.said("tc", "filter", "show", "dev", "eth0", "egress"), "sluice_guard"); n != 1 {
					t.Errorf("%d filters", n)
				}
			}
			must(t, again.Close())
			if got := s.shoot(s.cgroup, frame("eth0")); got != "" {
				t.Errorf("taken off: %q", got)
			}
			if left := s.said("tc", "qdisc", "show"); strings.Contains(left, "clsact") {
				t.Errorf("left behind: %s", left)
			}
			if left := r.GuardedNamespaces(); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestLinksOfOneNamespaceAreBounded: a program makes as many links as it likes in a network namespace of its own. The daemon takes a
// descriptor for so many of them, says so once, and the first ones are guarded.
func TestLinksOfOneNamespaceAreBounded(t *testing.T) {
	s := newScene(t)
	r, err := bpf.Load(bpf.Options{PinDir: filepath.Join(kerneltest.BPFFS(t), "sluice")})
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	must(t, r.SetPorts([]uint16{443}))
	must(t, r.Attach(s.cgroup))
	const most, pairs = 256, 150
	var batch strings.Builder
	for i := range pairs {
		fmt.Fprintf(&batch, "link add m%d type veth peer name n%d\n", i, i)
	}
	must(t, kerneltest.In(s.Agent, func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(batch.String())
		return cmd.Run()
	}))
	var said syncBuffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	links, err := guard.New(guard.Options{Programs: r, Backend: guard.TCX, Log: log}).Protect(s.ns)
	must(t, err)
	t.Cleanup(func() { _ = links.Close() })
	if n := r.Guarded(s.ns.Cookie()); n != most {
		t.Errorf("%d links are guarded, want %d", n, most)
	}
	if got := s.shoot(s.cgroup, shot{How: "frame", Link: "eth0", Dst: "10.77.0.1:443"}); got != "ENOBUFS" {
		t.Errorf("the way out: %q", got)
	}
	s.in("link", "add", "more0", "type", "veth", "peer", "name", "more1")
	s.in("link", "del", "m0") // which makes room
	s.in("link", "add", "late0", "type", "veth", "peer", "name", "late1")
	s.in("link", "set", "late0", "up")
	eventually(t, "a link that comes where there is room", func() bool {
		return s.shoot(s.cgroup, shot{How: "frame", Link: "late0", Dst: "10.77.0.1:443"}) == "ENOBUFS"
	})
	if n := r.Guarded(s.ns.Cookie()); n > most {
		t.Errorf("%d links are guarded, want at most %d", n, most)
	}
	if n := strings.Count(said.String(), "more links than are guarded"); n != 1 {
		t.Errorf("said %d times: %s", n, said.String())
	}
}

// syncBuffer is one for two goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A discipline and filters of somebody else stay as they are.
func TestClsactLeavesOthersAlone(t *testing.T) {
	s := newScene(t)
	r, err := bpf.Load(bpf.Options{PinDir: filepath.Join(kerneltest.BPFFS(t), "sluice")})
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	s.said("tc", "qdisc", "add", "dev", "eth0", "clsact")
	s.said("tc", "filter", "add", "dev", "eth0", "egress", "prio", "1", "protocol", "ip", "bpf", "bytecode", "1,6 0 0 4294967295,", "flowid", "1:1")
	links, err := guard.New(guard.Options{Programs: r, Backend: guard.Clsact}).Protect(s.ns)
	must(t, err)
	if both := s.said("tc", "filter", "show", "dev", "eth0", "egress"); !strings.Contains(both, "bytecode") || !strings.Contains(both, "sluice_guard") {
		t.Errorf("filters: %s", both)
	}
	must(t, links.Close())
	if left := s.said("tc", "filter", "show", "dev", "eth0", "egress"); !strings.Contains(left, "bytecode") || strings.Contains(left, "sluice_guard") {
		t.Errorf("left: %s", left)
	}
}

// TestTable has nftables alone judge.
func TestTable(t *testing.T) {
	s := newScene(t)
	r, err := bpf.Load(bpf.Options{PinDir: filepath.Join(kerneltest.BPFFS(t), "sluice")})
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	inner := filepath.Join(s.cgroup, "inner")
	must(t, os.Mkdir(inner, 0o755))
	var rules atomic.Pointer[guard.Rules]
	rules.Store(&guard.Rules{Cgroups: []guard.Cgroup{{ID: inode(t, s.cgroup), Level: 1}}, Ports: []uint16{443}})
	links, err := guard.New(guard.Options{Programs: r, Backend: guard.NFTables, Rules: func() guard.Rules { return *rules.Load() }}).Protect(s.ns)
	must(t, err)
	if links.Backend() != guard.NFTables {
		t.Fatalf("backend %s", links.Backend())
	}
	outside := kerneltest.Cgroup(t)
	for _, c := range []struct {
		how, dst, in, want string
	}{
		{"tcp", "10.77.0.1:443", s.cgroup, "ECONNREFUSED"},
		{"tcp", "[fd77::1]:443", s.cgroup, "ECONNREFUSED"},
		{"tcp", "10.77.0.1:443", inner, "ECONNREFUSED"},
		{"udplite", "10.77.0.1:443", s.cgroup, "EPERM"},
		{"udp", "10.77.0.1:443", s.cgroup, "EPERM"},
		{"udp", "[fd77::1]:443", s.cgroup, "EPERM"},
		{"raw", "10.77.0.1:443", s.cgroup, "EPERM"},
		{"raw", "[fd77::1]:443", s.cgroup, "EPERM"},
		{"udp", "127.0.0.1:443", s.cgroup, ""},
		{"udp", "[::1]:443", s.cgroup, ""},
		{"udp", "10.77.0.1:53", s.cgroup, ""},
		{"raw", "10.77.0.1:53", s.cgroup, ""},
	} {
		if got := s.shoot(c.in, shot{How: c.how, Dst: c.dst}); got != c.want {
			t.Errorf("%s to %s: %q, want %q", c.how, c.dst, got, c.want)
		}
	}
	if s.leaked.Load() != 0 {
		t.Errorf("%d leaked", s.leaked.Load())
	}
	if got := s.shoot(outside, shot{How: "udp", Dst: "10.77.0.1:443"}); got != "" {
		t.Errorf("another cgroup: %q", got)
	}
	eventually(t, "another cgroup's goes through", func() bool { return s.leaked.Swap(0) > 0 })
	// Rules that changed replace the table.
	rules.Store(&guard.Rules{Cgroups: rules.Load().Cgroups, Ports: []uint16{444}})
	must(t, links.Refresh())
	for port, want := range map[int]string{443: "", 444: "EPERM"} {
		if got := s.shoot(s.cgroup, shot{How: "udp", Dst: "10.77.0.1:" + strconv.Itoa(port)}); got != want {
			t.Errorf("port %d: %q", port, got)
		}
	}
	must(t, links.Close())
	must(t, links.Refresh()) // after Close it does nothing
	if left := s.said("nft", "list", "ruleset"); strings.TrimSpace(left) != "" {
		t.Errorf("left behind: %s", left)
	}
}

func TestProbe(t *testing.T) {
	kerneltest.Require(t)
	for _, s := range guard.Probe() {
		if s.Err != nil {
			t.Errorf("%s, which this kernel has: %v", s.Backend, s.Err)
		}
	}
}
