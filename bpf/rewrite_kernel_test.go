package bpf_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestPortsRewrittenOnTheWay has an agent with CAP_NET_ADMIN connect and send to a port that is not bound, or to loopback, and a
// firewall of its own make that a bound one elsewhere, wherever it can. What leaves is judged after all of that.
func TestPortsRewrittenOnTheWay(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	w.guardAll(t)
	sysctl(t, w.Agent, "ipv4/conf/all/route_localnet", "1")
	const masquerade = "add chain inet own after { type nat hook postrouting priority 100; }\nadd rule inet own after masquerade\n"
	for name, way := range map[string]struct {
		table, dst string
	}{
		"nat_output":                        {"add table inet own\nadd chain inet own out { type nat hook output priority -100; }\nadd rule inet own out meta l4proto {tcp, udp} th dport 80 dnat ip to 10.77.0.1:443\n", "10.77.0.1:80"},
		"nat_from_loopback":                 {"add table inet own\nadd chain inet own out { type nat hook output priority -100; }\nadd rule inet own out meta l4proto {tcp, udp} th dport 80 dnat ip to 10.77.0.1:443\n" + masquerade, "127.0.0.1:80"},
		"nat_from_loopback_of_a_bound_port": {"add table inet own\nadd chain inet own out { type nat hook output priority -100; }\nadd rule inet own out ip daddr 127.0.0.1 meta l4proto {tcp, udp} th dport 443 dnat ip to 10.77.0.1:443\n" + masquerade, "127.0.0.1:443"},
		"mangle_output":                     {"add table inet own\nadd chain inet own out { type route hook output priority -150; }\nadd rule inet own out udp dport 80 udp dport set 443\nadd rule inet own out tcp dport 80 tcp dport set 443\n", "10.77.0.1:80"},
		"mangle_late":                       {"add table inet own\nadd chain inet own out { type filter hook postrouting priority 300; }\nadd rule inet own out udp dport 80 udp dport set 443\nadd rule inet own out tcp dport 80 tcp dport set 443\n", "10.77.0.1:80"},
		"netdev_egress":                     {"add table netdev own\nadd chain netdev own out { type filter hook egress device eth0 priority 0; }\nadd rule netdev own out udp dport 80 udp dport set 443\nadd rule netdev own out tcp dport 80 tcp dport set 443\n", "10.77.0.1:80"},
	} {
		t.Run(name, func(t *testing.T) {
			rules := filepath.Join(t.TempDir(), "rules")
			must(t, os.WriteFile(rules, []byte(way.table), 0o644))
			must(t, kerneltest.In(w.Agent, func() error { return run(t, "nft", "-f", rules) }))
			dropped := func() (n [2]uint64) {
				for i, protocol := range []string{"udp", "tcp"} {
					n[i] = w.count(t, "dropped_"+protocol) + w.count(t, "dropped_link_"+protocol)
				}
				return n
			}
			before := dropped()
			_ = w.agent.do(order{Do: "sendto", Dst: way.dst})
			if got := w.agent.do(order{Do: "dial", Dst: way.dst, Wait: 300 * time.Millisecond}); got.Said == "origin" {
				t.Errorf("%+v", got)
			}
			if after := dropped(); after[0] == before[0] || after[1] == before[1] {
				t.Errorf("dropped were %v datagrams and segments before and %v after, want one more of each at least", before, after)
			}
			w.untouched(t)
			must(t, kerneltest.In(w.Agent, func() error { return run(t, "nft", "flush", "ruleset") }))
		})
	}
	if got := w.agent.do(order{Do: "dial", Dst: "10.77.0.1:80"}); got.Said != "origin" {
		t.Errorf("without rules: %+v", got)
	}
}

// TestConnectionTakenForAnothers: two targets share a network namespace, and one has CAP_NET_ADMIN there. It holds back what the other
// sends to the listener, and has its own come from the other's port. Documented as what such an agent can do: a listener knows
// whose a connection is by nothing else.
func TestConnectionTakenForAnothers(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	cgroup := kerneltest.Cgroup(t)
	must(t, w.Attach(cgroup))
	other := newAgent(t, cgroup, w.Agent)
	rules := filepath.Join(t.TempDir(), "rules")
	must(t, os.WriteFile(rules, []byte(strings.ReplaceAll(`add table inet own
add chain inet own out { type filter hook output priority -300; }
add rule inet own out tcp sport 40001 tcp dport PORT drop
add rule inet own out tcp sport 40002 tcp dport PORT tcp sport set 40001
add chain inet own in { type filter hook prerouting priority -300; }
add rule inet own in tcp sport PORT tcp dport 40001 tcp dport set 40002
`, "PORT", fmt.Sprint(w.doorman.port))), 0o644))
	must(t, kerneltest.In(w.Agent, func() error { return run(t, "nft", "-f", rules) }))
	other.do(order{Do: "socket", Socket: "s", Dst: origin4, Source: "0.0.0.0:40001", Wait: 100 * time.Millisecond})
	if got := other.do(order{Do: "connect", Socket: "s", Dst: origin4}); got.Error != "EINPROGRESS" {
		t.Fatalf("%+v", got)
	}
	got := w.agent.do(order{Do: "dial", Dst: "10.77.0.9:8443", Source: "0.0.0.0:40002"})
	if got.Said != origin4 || int(w.doorman.pid.Load()) != other.cmd.Process.Pid {
		t.Errorf("documented as what it can do, and it cannot: %+v of %d", got, w.doorman.pid.Load())
	}
	other.do(order{Do: "close", Socket: "s"})
	w.untouched(t)
	eventually(t, "no flow is left", func() bool { return w.flows(t) == 0 })
}

// TestPacketsOfNobody: what the kernel sends for a connection that is over has no socket that it could be judged by, and
// passes. It carries nothing of the agent's: an acknowledgment of TIME_WAIT and a reset have no data.
func TestPacketsOfNobody(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, w.Detach(w.cgroup)) // a connection older than the attach, as no other gets so far
	l, _ := listenIn(t, w.Server, "10.77.0.1:9443")
	accepted := make(chan *net.TCPConn, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.AcceptTCP(); err == nil {
			accepted <- c
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	const local = "10.77.0.2:5443"
	w.agent.do(order{Do: "socket", Socket: "old", Dst: "10.77.0.1:9443", Source: local})
	if got := w.agent.do(order{Do: "connect", Socket: "old", Dst: "10.77.0.1:9443", Data: "mute"}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	peer := <-accepted
	defer func() { _ = peer.Close() }()
	w.agent.do(order{Do: "close", Socket: "old"}) // its FIN is out: FIN_WAIT2, then TIME_WAIT, both without a socket's file
	must(t, peer.SetDeadline(time.Now().Add(time.Minute)))
	if n, err := peer.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("%d, %v", n, err)
	}
	must(t, w.SetPorts([]uint16{443, 8443, 9443}))
	must(t, w.Attach(w.cgroup))
	w.guardAll(t)
	eye := newPayloads(t, w.Server)

	// Data for a connection that nobody has any more is answered by a reset.
	_, err := peer.Write([]byte("are you there"))
	must(t, err)
	eventually(t, "it is answered by a reset", func() bool {
		_, err := peer.Write([]byte("?"))
		return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
	})
	// The same addresses again are a connect like any other.
	if got := w.agent.do(order{Do: "dial", Dst: "10.77.0.1:9443", Source: local}); got.Said != "10.77.0.1:9443" {
		t.Errorf("from the same port: %+v", got)
	}
	if eye.stop(); eye.segments == 0 || len(eye.seen) != 0 {
		t.Errorf("of %d segments to a bound port these had data: %q", eye.segments, eye.seen)
	}
}

// payloads collects what TCP segments to port 9443 carry into a namespace by its eth0.
type payloads struct {
	fd        int
	end, done chan struct{}

	segments int // seen, of any kind
	seen     [][]byte
}

func newPayloads(t *testing.T, netns string) *payloads {
	t.Helper()
	p := &payloads{done: make(chan struct{}), end: make(chan struct{})}
	must(t, kerneltest.In(netns, func() (err error) {
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
	}))
	go func() {
		defer close(p.done)
		for buf := make([]byte, 1<<16); ; {
			n, from, err := unix.Recvfrom(p.fd, buf, 0)
			if err != nil {
				select {
				case <-p.end:
					return
				default:
					continue
				}
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			if data, ok := dataTo(buf[:n], 9443); ok {
				p.segments++
				if len(data) > 0 {
					p.seen = append(p.seen, bytes.Clone(data))
				}
			}
		}
	}()
	t.Cleanup(func() { p.stop(); _ = unix.Close(p.fd) })
	return p
}

// stop ends the watch; what was seen may be read then.
func (p *payloads) stop() {
	select {
	case <-p.end:
	default:
		close(p.end)
	}
	<-p.done
}

// dataTo is what an IPv4 packet carries to a TCP port; it is not ok for any other packet.
func dataTo(packet []byte, port int) (data []byte, ok bool) {
	if len(packet) < 40 || packet[9] != unix.IPPROTO_TCP {
		return nil, false
	}
	total := min(int(packet[2])<<8|int(packet[3]), len(packet))
	segment := packet[int(packet[0]&15)*4 : total]
	if len(segment) < 20 || int(segment[2])<<8|int(segment[3]) != port {
		return nil, false
	}
	return segment[min(int(segment[12]>>4)*4, len(segment)):], true
}

// socketSentToOutside: a socket keeps the cgroup that it was made in, whoever has it. One that the agent gave away is
// redirected as the agent's.
func socketSentToOutside(t *testing.T, w *world) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	defer func() { _ = l.Close() }()
	w.agent.do(order{Do: "socket", Socket: "given", Dst: origin4})
	if got := w.agent.do(order{Do: "give", Socket: "given", Path: path}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	w.agent.do(order{Do: "close", Socket: "given"})
	c, err := l.AcceptUnix()
	must(t, err)
	defer func() { _ = c.Close() }()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), control)
	must(t, err)
	messages, err := unix.ParseSocketControlMessage(control[:n])
	must(t, err)
	fds, err := unix.ParseUnixRights(&messages[0])
	must(t, err)
	defer func() { _ = unix.Close(fds[0]) }()
	dst, _ := sockaddr(origin4)
	must(t, unix.Connect(fds[0], dst)) // by this process, which is in no attached cgroup
	if got, err := hear(fds[0]); err != nil || got.Said != origin4 {
		t.Errorf("%+v, %v", got, err)
	}
	w.untouched(t)
}

// userNamespace is an agent without privilege that makes itself root of a network of its own: there is no listener in there,
// and a packet socket has no link but loopback.
func userNamespace(t *testing.T, w *world) {
	script := filepath.Join(t.TempDir(), "agent.py")
	must(t, os.WriteFile(script, []byte(`
import errno, socket
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    for family, ip in (socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd77::1"):
        try:
            socket.socket(family, kind).connect((ip, 443))
            print("connected")
        except OSError as e:
            print(errno.errorcode[e.errno])
print([name for _, name in socket.if_nameindex()])
`), 0o644))
	got := w.agent.do(order{Do: "execute", Path: "unshare", Data: "--user --map-root-user --net python3 " + script})
	if want := strings.Repeat("ECONNREFUSED\n", 4) + "['lo']\n"; got.Said != want {
		t.Errorf("%+v, want %q", got, want)
	}
	w.untouched(t)
}

// familiesMixed are addresses whose family is not the socket's: IPv4's sendto(2) takes AF_UNSPEC for AF_INET, and a socket of
// IPv6 takes IPv4 addresses.
func familiesMixed(t *testing.T, w *world) {
	four := rawName(origin4)
	unspecified := append([]byte{unix.AF_UNSPEC, 0}, four[2:]...)
	for name, o := range map[string]order{
		"unspecified on IPv4":       {Family: unix.AF_INET, Bytes: unspecified},
		"IPv4 on IPv6":              {Family: unix.AF_INET6, Bytes: four},
		"IPv4 on IPv6, connect":     {Family: unix.AF_INET6, Bytes: four, Data: "connect"},
		"mapped on IPv6, connect":   {Family: unix.AF_INET6, Bytes: rawName(originMapped), Data: "connect"},
		"longer than it has to be":  {Family: unix.AF_INET, Bytes: append(rawName(origin4), make([]byte, 100)...)},
		"IPv6 without its scope id": {Family: unix.AF_INET6, Bytes: rawName(origin6)[:24]}, // RFC 2133's
	} {
		o.Do, o.Dst = "named", origin4
		if got := w.agent.do(o); got.Error != "ECONNREFUSED" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// With AF_UNSPEC, IPv6 takes the address for none at all, and connect(2) for a disconnect.
	for _, o := range []order{{Family: unix.AF_INET6, Bytes: unspecified}, {Family: unix.AF_INET, Bytes: unspecified, Data: "connect"}} {
		o.Do, o.Dst = "named", origin4
		if got := w.agent.do(o); got.Error != "EDESTADDRREQ" && got.Error != "ENOTCONN" {
			t.Errorf("%+v: %+v", o, got)
		}
	}
	if got := w.agent.do(order{Do: "addrform", Type: unix.SOCK_DGRAM, Dsts: []string{"[::ffff:10.77.0.1]:53"}, Dst: origin4}); got.Error != "ECONNREFUSED" {
		t.Errorf("a datagram after a change of form: %+v", got)
	}
	listenIn(t, w.Server, "10.77.0.1:7000") // never accepts, so that the connection stays as it is
	if got := w.agent.do(order{Do: "addrform", Dsts: []string{"[::ffff:10.77.0.1]:7000"}, Dst: origin4}); got.Said != origin4 || got.Peer != origin4 {
		t.Errorf("a connect after a change of form: %+v", got)
	}
	// What was begun for one destination goes there as a whole.
	before := w.origin.udp.Load()
	for _, pair := range [][2]string{{"10.77.0.1:53", origin4}, {"[fd77::1]:53", origin6}} {
		if got := w.agent.do(order{Do: "cork", Dsts: pair[:1], Dst: pair[1]}); got.Error != "" && got.Error != "ECONNREFUSED" {
			t.Errorf("%v: %+v", pair, got)
		}
	}
	if n := w.origin.udp.Load() - before; n != 0 {
		t.Errorf("%d datagrams arrived", n)
	}
	w.untouched(t)
}
