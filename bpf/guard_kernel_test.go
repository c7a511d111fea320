package bpf_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// forged marks the packets that a witness counts.
const forged = "forged "

// witness sees every frame that comes to a namespace's eth0, whether anybody receives it or not.
type witness struct {
	mu   sync.Mutex
	seen map[string]int
}

func newWitness(t testing.TB, netns string) *witness {
	t.Helper()
	w := &witness{seen: make(map[string]int)}
	var fd int
	must(t, kerneltest.In(netns, func() (err error) {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		tv := unix.Timeval{Usec: 20_000}
		return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: i.Index}))
	}))
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 1<<16); ; {
			select {
			case <-end:
				return
			default:
			}
			n, err := unix.Read(fd, buf)
			if err != nil {
				continue
			}
			if _, name, ok := bytes.Cut(buf[:n], []byte(forged)); ok {
				name, _, _ = bytes.Cut(name, []byte{0})
				w.mu.Lock()
				w.seen[string(name)]++
				w.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { close(end); <-done; _ = unix.Close(fd) })
	return w
}

func (w *witness) count(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[name]
}

// forget begins anew.
func (w *witness) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.seen)
}

// mark is a payload that a witness knows a packet by.
func mark(name string) string { return forged + name + "\x00" }

// index of a link in a namespace.
func index(t testing.TB, netns, name string) (index int) {
	t.Helper()
	must(t, kerneltest.In(netns, func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			index = i.Index
		}
		return err
	}))
	return index
}

// guardAll puts the guard on the agent's links, where the kernel has no tcx (before Linux 6.6) as a filter of clsact.
func (w *world) guardAll(t testing.TB) {
	t.Helper()
	guard := func(index int, arphrd uint16) error {
		if err := w.GuardLink(w.doorman.cookie, index, arphrd, 0); !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
		qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}
		return errors.Join(netlink.QdiscAdd(qdisc), netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
			Fd:          w.GuardProgram(arphrd).FD(), Name: "guard", DirectAction: true,
		}))
	}
	must(t, kerneltest.In(w.Agent, func() error {
		return errors.Join(guard(1, unix.ARPHRD_LOOPBACK), guard(linkIndex(w.Link), unix.ARPHRD_ETHER))
	}))
}

// haveTCX asks for tcx (Linux 6.6), which pinned links can keep programs on a network's links by.
func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXEgress})
	return !errors.Is(err, unix.EINVAL)
}

// socketError is what the kernel says to this process about a socket.
func socketError(family, kind int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func linkIndex(name string) int {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return -1
	}
	return i.Index
}

// TestGuardFrames sends what no hook on sockets sees.
func TestGuardFrames(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	w.guardAll(t)
	eye, link := newWitness(t, w.Server), index(t, w.Agent, w.Link)
	for name, p := range packets() {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			if p.proto == 0 {
				p.proto = unix.ETH_P_IP
			}
			var before uint64
			if p.counter != "" {
				before = w.count(t, p.counter)
			}
			got := w.agent.do(order{Do: "frame", Index: link, Proto: p.proto, Bytes: p.frame(mark(name))})
			w.settled(t, eye, link)
			if p.counter == "" {
				if eye.count(name) != 1 || got.Error != "" {
					t.Errorf("seen %d times: %+v", eye.count(name), got)
				}
				return
			}
			if eye.count(name) != 0 || got.Error != "ENOBUFS" || w.count(t, p.counter)-before != 1 {
				t.Errorf("seen %d times, %s counted %d times: %+v", eye.count(name), p.counter, w.count(t, p.counter)-before, got)
			}
		})
	}
	t.Run("without_a_header", func(t *testing.T) { // SOCK_DGRAM: the kernel makes the Ethernet header
		got := w.agent.do(order{Do: "frame", Type: unix.SOCK_DGRAM, Index: link, Proto: unix.ETH_P_IP, Bytes: ip4(unix.IPPROTO_UDP, 0, nil, udp(443, mark("dgram")))})
		w.settled(t, eye, link)
		if got.Error != "ENOBUFS" || eye.count("dgram") != 0 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("to_be_cut_by_the_kernel", func(t *testing.T) { // struct virtio_net_hdr: a segment of TCP over IPv4, 1000 bytes each
		header := []byte{0, 1, 54, 0, 0xe8, 3, 0, 0, 0, 0}
		data := mark("segments") + strings.Repeat("x", 5000)
		for port, seen := range map[uint16]bool{443: false, 80: true} {
			frame := ether(unix.ETH_P_IP, ip4(unix.IPPROTO_TCP, 0, nil, tcp(port, ack, data)))
			got := w.agent.do(order{Do: "frame", Segment: true, Index: link, Proto: unix.ETH_P_IP, Bytes: append(header, frame...)})
			w.settled(t, eye, link)
			if (got.Error == "") != seen || eye.count("segments") > 0 != seen {
				t.Errorf("port %d: %+v, seen %d times", port, got, eye.count("segments"))
			}
			eye.forget()
		}
	})
	t.Run("around_the_queues", func(t *testing.T) {
		if got := w.agent.do(order{Do: "frame", Bypass: true, Index: link}); got.Error != "EPERM" {
			t.Errorf("%+v", got)
		}
		got := w.agent.do(order{Do: "option", Family: unix.AF_XDP, Type: unix.SOCK_RAW, Proto: unix.SOL_XDP, N: unix.XDP_TX_RING, Bytes: []byte{0, 1, 0, 0}})
		want := "EPERM"
		if len(optional) > 0 || errors.Is(socketError(unix.AF_XDP, unix.SOCK_RAW), unix.EAFNOSUPPORT) { // there is not even a socket
			want = "socket: " + unix.EAFNOSUPPORT.Error()
		}
		if got.Error != want {
			t.Errorf("AF_XDP: %+v, want %s", got, want)
		}
		// Options longer than a page, as of iptables, are as they were.
		if got := w.agent.do(order{Do: "option", Family: unix.AF_INET, Type: unix.SOCK_RAW, Proto: unix.SOL_SOCKET, N: unix.SO_MARK, Bytes: make([]byte, 9000)}); got.Error == "EFAULT" || got.Error == "EPERM" {
			t.Errorf("a long option: %+v", got)
		}
	})
	t.Run("around_the_queues_since_before_the_attach", func(t *testing.T) { // documented as a way round
		must(t, w.Detach(w.cgroup))
		opened := w.agent.do(order{Do: "frame", Socket: "older", Bypass: true})
		must(t, w.Attach(w.cgroup))
		if opened.Error != "" {
			t.Fatalf("%+v", opened)
		}
		frame := ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(443, mark("older"))))
		if got := w.agent.do(order{Do: "frame", Socket: "older", Index: link, Proto: unix.ETH_P_IP, Bytes: frame}); got.Error != "" {
			t.Errorf("%+v", got)
		}
		eventually(t, "it comes through", func() bool { return eye.count("older") > 0 })
		w.agent.do(order{Do: "close", Socket: "older"})
		eventually(t, "the origin has it", func() bool { return w.origin.udp.Swap(0) == 1 })
	})
	t.Run("around_the_queues_in_32_bits", func(t *testing.T) { // whose options the hook on cgroups is not asked about
		program := build32(t, "./testdata/bypass/go")
		if program == "" {
			t.Log("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION), which closes this way")
			return
		}
		before := w.count(t, "refused_bypass")
		frame := ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(443, mark("32 bits"))))
		got := w.agent.do(order{Do: "execute", Path: program, Data: fmt.Sprintf("%d %x", link, frame)})
		w.settled(t, eye, link)
		if len(optional) == 0 {
			t.Logf("this kernel has no LSM programs on cgroups: doctor warns (%+v)", got)
			eventually(t, "it comes through", func() bool { return w.origin.udp.Swap(0) == 1 })
		} else if got.Said != unix.EPERM.Error() || eye.count("32 bits") != 0 || w.count(t, "refused_bypass") != before+1 {
			t.Errorf("%+v, seen %d times", got, eye.count("32 bits"))
		}
	})
	t.Run("of_nobody", func(t *testing.T) { // what is not of the cgroup is let be
		other := newAgent(t, kerneltest.Cgroup(t), w.Agent)
		if got := other.do(order{Do: "frame", Index: link, Proto: unix.ETH_P_IP, Bytes: ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(444, mark("other"))))}); got.Error != "" {
			t.Errorf("%+v", got)
		}
		if got := other.do(order{Do: "dial", Dst: origin4}); got.Said != "origin" {
			t.Errorf("%+v", got)
		}
		w.origin.tcp.Store(0)
	})
	w.untouched(t)
}

// settled waits until everything sent before has come to the other side.
func (w *world) settled(t testing.TB, eye *witness, link int) {
	t.Helper()
	name := fmt.Sprintf("settled %d", time.Now().UnixNano())
	got := w.agent.do(order{Do: "frame", Index: link, Proto: unix.ETH_P_IP, Bytes: ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(9, mark(name))))})
	if got.Error != "" {
		t.Fatalf("a frame for nobody: %+v", got)
	}
	eventually(t, "a frame after it arrives", func() bool { return eye.count(name) == 1 })
}

// rawSockets may be made, and reach whatever is not bound.
func rawSockets(t *testing.T, w *world) {
	eye, link := newWitness(t, w.Server), index(t, w.Agent, w.Link)
	// As if they were a server's answers: somebody listens where they come from.
	const served = "[::]:40000"
	if got := w.agent.do(order{Do: "listen", Socket: served, Dst: served}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	defer w.agent.do(order{Do: "close", Socket: served})
	for name, o := range map[string]order{
		"v4 answer": {Dst: "10.77.0.1:0", Proto: unix.IPPROTO_TCP, Bytes: tcp(8443, ack, mark("v4 answer"))},
		"v6 answer": {Dst: "[fd77::1]:0", Proto: unix.IPPROTO_TCP, Bytes: tcp(8443, syn|ack, mark("v6 answer"))},
		"v4 tcp":    {Dst: "10.77.0.1:0", Proto: unix.IPPROTO_TCP, Bytes: tcp(443, syn, mark("v4 tcp"))},
		"v4 udp":    {Dst: "10.77.0.1:0", Proto: unix.IPPROTO_UDP, Bytes: udp(443, mark("v4 udp"))},
		"v4 header": {
			Dst: "10.77.0.1:0", Proto: unix.IPPROTO_RAW, HeaderIncluded: true,
			Bytes: ip4(unix.IPPROTO_TCP, 0, nil, tcp(443, syn, mark("v4 header"))),
		},
		"v4 options": {
			Dst: "10.77.0.1:0", Proto: unix.IPPROTO_RAW, HeaderIncluded: true,
			Bytes: ip4(unix.IPPROTO_UDP, 0, bytes.Repeat([]byte{1}, 40), udp(443, mark("v4 options"))),
		},
		"v4 udp-lite": {Dst: "10.77.0.1:0", Proto: unix.IPPROTO_UDPLITE, Bytes: udp(443, mark("v4 udp-lite"))},
		"v6 tcp":      {Dst: "[fd77::1]:0", Proto: unix.IPPROTO_TCP, Bytes: tcp(443, syn, mark("v6 tcp"))},
		"v6 header": {
			Dst: "[fd77::1]:0", Proto: unix.IPPROTO_RAW, HeaderIncluded: true,
			Bytes: ip6(unix.IPPROTO_DSTOPTS, extension(unix.IPPROTO_UDP, udp(443, mark("v6 header")))),
		},
	} {
		o.Do = "raw"
		if got := w.agent.do(o); got.Error != "EPERM" {
			t.Errorf("%s: %+v", name, got)
		}
		w.settled(t, eye, link)
		if eye.count(name) != 0 {
			t.Errorf("%s: came through", name)
		}
	}
	if got := w.agent.do(order{Do: "raw", Dst: "10.77.0.1:0", Proto: unix.IPPROTO_UDP, Bytes: udp(53, mark("not bound"))}); got.Error != "" {
		t.Errorf("not bound: %+v", got)
	}
	// Twice, if the other side sends it back in an ICMP error.
	eventually(t, "a raw packet to a port that is not bound arrives", func() bool { return eye.count("not bound") > 0 })
	if got := w.agent.do(order{Do: "ping", Dst: "10.77.0.1:0"}); got.Said != "echo reply" {
		t.Errorf("ping with a raw socket: %+v", got)
	}
	w.untouched(t)
}

// TestFramesWithoutTheGuard pass: the hooks on the cgroup see packets of internet sockets, and those alone.
func TestFramesWithoutTheGuard(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	eye, link := newWitness(t, w.Server), index(t, w.Agent, w.Link)
	got := w.agent.do(order{Do: "frame", Index: link, Proto: unix.ETH_P_IP, Bytes: ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(443, mark("unseen"))))})
	if got.Error != "" {
		t.Errorf("%+v", got)
	}
	eventually(t, "a frame to a bound port arrives", func() bool { return eye.count("unseen") > 0 })
	if got := w.agent.do(order{Do: "raw", Dst: "10.77.0.1:0", Proto: unix.IPPROTO_UDP, Bytes: udp(443, mark("raw"))}); got.Error != "EPERM" {
		t.Errorf("a raw socket: %+v", got)
	}
	w.settled(t, eye, link)
	if eye.count("raw") != 0 {
		t.Error("a raw socket's packet came through")
	}
}

// TestGuardLoopback has packets with a foreign source sent to the loopback link of a namespace that forwards: it
// would send them on, as nobody's.
func TestGuardLoopback(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	sysctl(t, w.Agent, "ipv4/ip_forward", "1")
	sysctl(t, w.Agent, "ipv4/conf/all/rp_filter", "0")
	sysctl(t, w.Agent, "ipv4/conf/lo/rp_filter", "0")
	eye, link := newWitness(t, w.Server), index(t, w.Agent, w.Link)
	send := func(name string, port uint16) answer {
		p := ip4(unix.IPPROTO_UDP, 0, nil, udp(port, mark(name)))
		copy(p[12:16], []byte{10, 77, 0, 99}) // a neighbour's address
		p[10], p[11] = 0, 0
		s := sum(p[:20])
		p[10], p[11] = byte(s>>8), byte(s)
		f := ether(unix.ETH_P_IP, p)
		copy(f, make([]byte, 6)) // lo's own address
		got := w.agent.do(order{Do: "frame", Index: 1, Proto: unix.ETH_P_IP, Bytes: f})
		w.settled(t, eye, link)
		return got
	}
	send("forwarded", 443)
	eventually(t, "without a guard it is sent on", func() bool { return eye.count("forwarded") > 0 })
	w.origin.udp.Store(0)
	w.guardAll(t)
	if got := send("guarded", 443); got.Error != "ENOBUFS" || eye.count("guarded") != 0 {
		t.Errorf("%+v, seen %d times", got, eye.count("guarded"))
	}
	if got := send("other port", 53); got.Error != "" {
		t.Errorf("%+v", got)
	}
	eventually(t, "another port is let be", func() bool { return eye.count("other port") > 0 })
	// A raw socket that is bound to lo gets there as well.
	p := ip4(unix.IPPROTO_UDP, 0, nil, udp(443, mark("raw")))
	copy(p[12:16], []byte{10, 77, 0, 99})
	if got := w.agent.do(order{Do: "raw", Dst: "10.77.0.1:0", Device: "lo", Proto: unix.IPPROTO_RAW, HeaderIncluded: true, Bytes: p}); got.Error != "EPERM" {
		t.Errorf("raw: %+v", got)
	}
	w.proxied(t, order{Do: "dial", Dst: origin4}) // and the redirect works
	if got := w.agent.do(order{Do: "sendto", Dst: "127.0.0.1:443"}); got.Error != "" {
		t.Errorf("a datagram to ourselves: %+v", got)
	}
}

// TestGuardOutlivesTheDaemon follows the guard through a restart, an upgrade and a removal. It is about tcx (Linux 6.6).
func TestGuardOutlivesTheDaemon(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	w.guardAll(t)
	w.guardAll(t) // idempotent
	eye, link := newWitness(t, w.Server), index(t, w.Agent, w.Link)
	frame := order{Do: "frame", Index: link, Proto: unix.ETH_P_IP, Bytes: ether(unix.ETH_P_IP, ip4(unix.IPPROTO_TCP, 0, nil, tcp(443, syn, mark("syn"))))}
	guarded := func(when string, want bool) {
		t.Helper()
		got := w.agent.do(frame)
		if want != (got.Error == "ENOBUFS") {
			t.Errorf("%s: %+v", when, got)
		}
	}
	guarded("at first", true)
	if n := w.Guarded(w.doorman.cookie); n != 2 {
		t.Errorf("%d links", n)
	}
	must(t, w.Close())
	guarded("no daemon", true)
	w.Redirect = load(t, bpf.Options{PinDir: w.pins})
	guarded("adopted", true)
	must(t, w.Close())
	w.Redirect = load(t, bpf.Options{PinDir: w.pins, MaxFlows: 2048}) // new maps
	guarded("upgraded", true)
	w.guardAll(t)
	if n, all := w.Guarded(w.doorman.cookie), w.GuardedNamespaces(); n != 2 || len(all) != 1 {
		t.Errorf("%d links, namespaces %v", n, all)
	}
	must(t, kerneltest.In(w.Agent, func() error { return run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1") }))
	must(t, kerneltest.In(w.Agent, func() error { return w.GuardLink(w.doorman.cookie, linkIndex("v0"), unix.ARPHRD_ETHER, 0) }))
	must(t, kerneltest.In(w.Agent, func() error { return run(t, "ip", "link", "del", "v0") }))
	eventually(t, "a link that is gone is let go of", func() bool {
		must(t, w.SweepGuard(w.doorman.cookie))
		pins, err := filepath.Glob(filepath.Join(w.pins, "guard", "*", "*"))
		must(t, err)
		return len(pins) == 2
	})
	must(t, w.Detach(w.cgroup))
	guarded("detached", false)
	must(t, w.Attach(w.cgroup))
	guarded("attached again", true)
	must(t, w.Unguard(w.doorman.cookie))
	guarded("taken off", false)
	w.guardAll(t)
	must(t, w.Close())
	w.Redirect = load(t, bpf.Options{PinDir: w.pins, FailOpen: true})
	guarded("fail open", false)
	w.settled(t, eye, link)
}
