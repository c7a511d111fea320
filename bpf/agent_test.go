package bpf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// agentVariable makes a re-executed test binary an agent: a process in the attached
// cgroup that does what the lines on its standard input say.
const agentVariable = "SLUICE_BPF_TEST_AGENT"

// order is one thing for an agent to do. Which fields count depends on Do.
type order struct {
	Do     string
	Socket string // name of a socket that is kept
	Family int    // 0: that of Dst
	Type   int
	Proto  int
	Dst    string
	Dsts   []string

	V6Only, Transparent, Freebind, NonBlocking, FastOpenConnect, ReusePort, ReuseAddr bool

	Wait   time.Duration // for a connect and for each answer; 0: 2 s
	Source string        // bind(2)
	Device string        // SO_BINDTODEVICE
	Index  int           // IP_UNICAST_IF
	Data   string
	N      int
	Path   string

	Bytes           []byte // a frame or packet as it is
	HeaderIncluded  bool   // Bytes begin with the IP header
	Bypass, Segment bool   // PACKET_QDISC_BYPASS, PACKET_VNET_HDR
}

// answer is how it went. Error is the errno's name, "" for success.
type answer struct {
	Error string
	Said  string // what the other side said
	Peer  string // getpeername(2)
	Took  time.Duration
	Wrong []string // what should not have been
	N     int
}

// actions by order.Do. Each gets the state of the agent, which is one thread's.
func actions() map[string]func(*state, order) (answer, error) {
	return map[string]func(*state, order) (answer, error){
		"dial": (*state).dial, "socket": (*state).socket, "connect": (*state).connect, "close": (*state).closeSocket,
		"disconnect": (*state).disconnect, "twice": (*state).connectTwice, "fastopen": (*state).fastOpen,
		"put off": (*state).putOff, "say all": (*state).sayAll, "hear all": (*state).hearAll, "source route": (*state).sourceRoute,
		"go": (*state).goDial, "many": (*state).many, "sequential": (*state).sequential,
		"sendto": (*state).sendTo, "sendmmsg": (*state).sendMany, "gso": (*state).sendSegments, "pktinfo": (*state).sendPktInfo,
		"frame": (*state).frame, "ring": (*state).ringFrame, "raw": (*state).raw, "option": (*state).option, "cookie": (*state).cookie, "say": (*state).say, "ping": (*state).ping,
		"listen": (*state).listen, "accept": (*state).accept, "accepted": (*state).accepted,
		"bind": (*state).bind, "unshare": (*state).unshare, "bench": (*state).bench,
		"setns": (*state).setns, "namespaces": (*state).newNamespaces, "move": (*state).move, "move thread": (*state).moveThread,
		"receive": (*state).receive, "give": (*state).give, "steal": (*state).steal, "inherited": (*state).inherited, "spawn": (*state).spawn, "execute": (*state).execute,
		"unix": (*state).unixDial, "reuse": (*state).reuse, "sendopen": (*state).sendOpen, "repair": (*state).repair, "flip": (*state).flip,
		"uring": (*state).uring, "named": (*state).named, "cork": (*state).cork, "addrform": (*state).addressForm, "ask": (*state).ask, "bench datagrams": (*state).benchDatagrams,
	}
}

type state struct{ sockets map[string]int }

// runAgent is the whole life of an agent process.
func runAgent() error {
	runtime.LockOSThread() // unshare is the thread's
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	s := &state{sockets: make(map[string]int)}
	known := actions()
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		do, ok := known[o.Do]
		if !ok {
			return fmt.Errorf("no action %q", o.Do)
		}
		begin := time.Now()
		a, err := do(s, o)
		a.Took = time.Since(begin)
		if err != nil {
			a.Error = err.Error()
			if errno := unix.Errno(0); errors.As(err, &errno) {
				a.Error = unix.ErrnoName(errno)
			}
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

// agent is the test's side of such a process.
type agent struct {
	t   testing.TB
	cmd *exec.Cmd
	mu  sync.Mutex
	in  *json.Encoder
	out *json.Decoder
	end func()
}

// newAgent starts one in a cgroup and a network namespace.
func newAgent(t testing.TB, cgroup, netns string) *agent {
	t.Helper()
	return newAgentWith(t, cgroup, netns)
}

// newAgentWith starts one that inherits files, as descriptors from 3 on.
func newAgentWith(t testing.TB, cgroup, netns string, files ...*os.File) *agent {
	t.Helper()
	// The Go runtime's own signals would interrupt a connect that has a time limit.
	cmd := kerneltest.Command(t, cgroup, []string{agentVariable + "=1", "GODEBUG=asyncpreemptoff=1"}, "/proc/self/exe")
	cmd.ExtraFiles = files
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, kerneltest.Start(cmd, netns))
	a := &agent{t: t, cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out)}
	a.end = sync.OnceFunc(func() {
		_ = in.Close()
		// A test that is over has killed it by its context.
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("agent: %v", err)
		}
	})
	t.Cleanup(a.end)
	return a
}

func (a *agent) do(o order) answer {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	must(a.t, a.in.Encode(o))
	var ans answer
	if err := a.out.Decode(&ans); err != nil {
		a.t.Fatalf("agent did not answer %s: %v", o.Do, err)
	}
	return ans
}

func sockaddr(addr string) (unix.Sockaddr, netip.AddrPort) {
	ap := netip.MustParseAddrPort(addr)
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}, ap
	}
	return &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}, ap
}

func text(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
	}
	return ""
}

// make opens a socket with an order's options.
func (s *state) make(o order) (int, error) {
	if o.Family == 0 {
		o.Family = unix.AF_INET6
		if _, ap := sockaddr(o.Dst); ap.Addr().Is4() {
			o.Family = unix.AF_INET
		}
	}
	if o.Type == 0 {
		o.Type = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(o.Family, o.Type|unix.SOCK_CLOEXEC, o.Proto)
	if err != nil {
		return -1, err
	}
	if err := options(fd, o); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("socket option: %s", err) // not %w: it is not connect's errno
	}
	return fd, nil
}

func options(fd int, o order) error {
	if o.Wait == 0 {
		o.Wait = 2 * time.Second
	}
	tv := unix.NsecToTimeval(o.Wait.Nanoseconds()) // also connect(2)'s
	errs := []error{unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)}
	set := func(ok bool, level, name, value int) {
		if ok {
			errs = append(errs, unix.SetsockoptInt(fd, level, name, value))
		}
	}
	set(o.V6Only, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	set(o.Transparent, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	set(o.Freebind, unix.SOL_IP, unix.IP_FREEBIND, 1)
	set(o.ReuseAddr, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	set(o.ReusePort, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	set(o.FastOpenConnect, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	index := int(htonl(uint32(o.Index)))
	set(o.Index != 0 && o.Family == unix.AF_INET, unix.SOL_IP, unix.IP_UNICAST_IF, index)
	set(o.Index != 0 && o.Family == unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, index)
	if o.Device != "" {
		errs = append(errs, unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, o.Device))
	}
	if o.Source != "" {
		sa, _ := sockaddr(o.Source)
		errs = append(errs, unix.Bind(fd, sa))
	}
	return errors.Join(errs...)
}

// hear reads what the listener says and asks who it is.
func hear(fd int) (answer, error) {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return answer{}, err
	}
	said := make([]byte, 256)
	n, err := again(func() (int, error) { return unix.Read(fd, said) })
	if err != nil {
		return answer{Peer: text(peer)}, err
	}
	return answer{Said: string(said[:n]), Peer: text(peer)}, nil
}

func (s *state) dial(o order) (answer, error) {
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	dst, _ := sockaddr(o.Dst)
	if _, err := again(func() (int, error) { return 0, unix.Connect(fd, dst) }); err != nil {
		return answer{}, err
	}
	if o.FastOpenConnect { // the SYN leaves with the first write
		if _, err := unix.Write(fd, []byte("data")); err != nil {
			return answer{}, err
		}
	}
	return hear(fd)
}

func (s *state) socket(o order) (answer, error) {
	fd, err := s.make(o)
	if err == nil {
		s.sockets[o.Socket] = fd
	}
	return answer{}, err
}

func (s *state) connect(o order) (answer, error) {
	dst, _ := sockaddr(o.Dst)
	if err := unix.Connect(s.sockets[o.Socket], dst); err != nil {
		return answer{}, err
	}
	if o.Data == "mute" { // the listener says nothing
		return answer{}, nil
	}
	return hear(s.sockets[o.Socket])
}

func (s *state) closeSocket(o order) (answer, error) {
	fd := s.sockets[o.Socket]
	delete(s.sockets, o.Socket)
	return answer{}, unix.Close(fd)
}

func (s *state) bind(o order) (answer, error) {
	fd, err := s.make(o)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	sa, _ := sockaddr(o.Dst)
	return answer{}, unix.Bind(fd, sa)
}

func (s *state) goDial(o order) (answer, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	d.SetMultipathTCP(true)
	c, err := d.Dial("tcp", o.Dst)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = c.Close() }()
	said, err := io.ReadAll(c)
	return answer{Said: string(said), Peer: c.RemoteAddr().String()}, err
}

// again has a system call go on that was interrupted: what is left of an io_uring when it has been closed comes between the
// next ones, which with a time-out are not begun again by themselves.
func again(call func() (int, error)) (n int, err error) {
	for n, err = call(); errors.Is(err, unix.EINTR); n, err = call() {
	}
	return n, err
}
