package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// lenient is a guard's programs that let everything pass.
type lenient struct{ *ebpf.Program }

func (lenient) GuardLink(uint64, int, uint16, int) error { return ebpf.ErrNotSupported }
func (lenient) SweepGuard(uint64) error                  { return nil }
func (lenient) Unguard(uint64) error                     { return nil }
func (p lenient) GuardProgram(uint16) *ebpf.Program      { return p.Program }

// TestDetachAllClearsGuards has a daemon die that guarded links as older kernels need it: nobody
// remembers in which namespaces it did, and nothing of it is pinned.
func TestDetachAllClearsGuards(t *testing.T) {
	needs(t, "nft", "tc", "bpftool", "ss", "unshare")
	h := newEmptyHouse(t, nil, nil)
	cgroup := kerneltest.Cgroup(t)
	apart := fmt.Sprintf("/proc/%d/ns/net", resident(t, cgroup))
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	look := func() census {
		c := make(census)
		c.network(t, h.pair.Agent)
		c.network(t, apart)
		return c
	}
	h.daemon.kill()
	before := look()
	for backend, path := range map[guard.Backend]string{guard.Clsact: h.pair.Agent, guard.NFTables: apart} {
		ns, err := netns.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		links, err := guard.New(guard.Options{
			Programs: lenient{prog}, Name: guardName(h.pins()), Backend: backend, Rules: func() guard.Rules { return guard.Rules{Ports: []uint16{443}} },
		}).Protect(ns)
		if err != nil {
			t.Fatal(err)
		}
		links.Stop()
	}
	there := strings.Join(look().left(before), "\n")
	for _, what := range []string{"clsact", guardName(h.pins()) + "_guard", "table inet " + guardName(h.pins())} {
		if !strings.Contains(there, what) {
			t.Errorf("before, there is no %q: it proves nothing\n%s", what, there)
		}
	}
	h.sluice("", "detach", "--all", "--config", filepath.Join(h.dir, "config.toml"), "--state-dir", filepath.Join(h.dir, "state"))
	for _, what := range look().left(before) {
		t.Errorf("left is %s", what)
	}
}

// forge has an agent send two packets to the origin's UDP port 443 that no hook on sockets sees: a frame of its own
// making, and a datagram by a raw socket. It prints what the kernel said to each.
const forge = `
import errno, socket, struct, sys
dst, mac, link, source = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), sys.argv[3], sys.argv[4]
def packet(text):
    udp = struct.pack("!4H", 4242, 443, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(dst))
    s = sum(struct.unpack("!10H", head))
    while s > 0xffff: s = (s & 0xffff) + (s >> 16)
    return head[:10] + struct.pack("!H", ~s & 0xffff) + head[12:] + udp
def attempt(name, send):
    try:
        send()
        print(name, "sent")
    except OSError as e:
        print(name, errno.errorcode[e.errno])
frame = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
attempt("frame", lambda: frame.sendto(packet(b"frame"), (link, 0x0800, 0, 0, mac)))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
attempt("raw", lambda: raw.sendto(packet(b"raw"), (dst, 0)))
`

// TestGuardOff shows what the configuration's guard = "off" gives up, beside "on": frames of an agent that may make its
// own. Everything else is as it was, and both targets and doctor say which one is in force. Then both serve requests in
// turns, each on a connection of its own, which tells what the guard costs.
func TestGuardOff(t *testing.T) {
	needs(t, "python3")
	houses := make(map[string]*gathering)
	for _, mode := range []string{guardOn, guardOff} {
		h := newHouse(t, nil, fmt.Sprintf("guard = %q", mode))
		told, arrives, state := "frame ENOBUFS\nraw EPERM\n", "", "OK"
		if mode == guardOff {
			told, arrives, state = "frame sent\nraw EPERM\n", "frame", "WARN"
		}
		if got, arrived := h.forged("eth0", h.pair.AgentIP4); got != told || arrived != arrives {
			t.Errorf("%s: the agent was told %q and the origin got %q, want %q and %q", mode, got, arrived, told, arrives)
		}
		g := h.gather()
		g.order(crowdOrder{Do: "end"})
		var targets []intercept.Target
		if err := json.Unmarshal([]byte(h.sluice("", "targets", "-o", "json")), &targets); err != nil || len(targets) != 1 {
			t.Fatalf("%v: %+v", err, targets)
		}
		if got := targets[0].Guard; got == "" || (got == string(guard.None)) != (mode == guardOff) {
			t.Errorf("%s: targets says %q", mode, got)
		}
		if all := h.doctor(); !said(all, "guard", state, mode) {
			t.Errorf("%s: doctor does not say so: %+v", mode, all)
		}
		houses[mode] = g
	}

	turns := 30
	if os.Getenv("SLUICE_SOAK") != "" {
		turns = 2000
	}
	took := make(map[string][]time.Duration)
	var ratios []float64
	for range turns {
		var last [2]time.Duration
		for i, mode := range []string{guardOn, guardOff} {
			g := houses[mode]
			began := time.Now()
			g.order(crowdOrder{Do: crowdIdle, N: 1})
			if fared := g.order(crowdOrder{Do: "ask", Request: requestFor(loadHost, chatBody)}); fared["200 OK"] != 1 {
				t.Fatalf("%s: %v", mode, fared)
			}
			last[i] = time.Since(began)
			g.order(crowdOrder{Do: "end"})
			took[mode] = append(took[mode], last[i])
		}
		ratios = append(ratios, float64(last[0])/float64(last[1]))
	}
	slices.Sort(ratios)
	middle := func(mode string) time.Duration { slices.Sort(took[mode]); return took[mode][turns/2] }
	t.Logf("connect, handshake and a small request, %d in turns: %s with the guard and %s without (medians); in half of the turns the ratio was from %.3f to %.3f, the median %.3f",
		turns, middle(guardOn), middle(guardOff), ratios[turns/4], ratios[turns*3/4], ratios[turns/2])
	if ratios[turns/2] > 1.5 {
		t.Errorf("with the guard a request takes %.2f times what it takes without", ratios[turns/2])
	}
}

// forged has an agent forge packets by a link of the agents' namespace, and tells what it was told and what arrived.
func (h *house) forged(link, source string) (told, arrived string) {
	h.t.Helper()
	origin, mac := h.datagrams()
	defer origin.Close()
	h.write("forge.py", forge)
	told = h.output("python3", filepath.Join(h.dir, "forge.py"), h.pair.ServerIP4, mac, link, source)
	return told, received(origin)
}

// datagrams is the origin's UDP port 443, and its link's address.
func (h *house) datagrams() (origin net.PacketConn, mac string) {
	h.t.Helper()
	if err := kerneltest.In(h.pair.Server, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		mac = link.HardwareAddr.String()
		origin, err = new(net.ListenConfig).ListenPacket(h.t.Context(), "udp4", h.pair.ServerIP4+":443")
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	return origin, mac
}

// received is what has come there, and comes within a while.
func received(origin net.PacketConn) (all string) {
	_ = origin.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	for buf := make([]byte, 64); ; {
		n, _, err := origin.ReadFrom(buf)
		if err != nil {
			return all
		}
		all += string(buf[:n])
	}
}

// TestNestedNamespace has an agent with every capability in its namespace make one below it, with a link to it and a route
// out. A connect in there is refused until sluice has been told and listens there; from then on it is intercepted, and
// what goes round it is dropped on the new link as well.
func TestNestedNamespace(t *testing.T) {
	t.Parallel()
	needs(t, "python3")
	h := newHouse(t, nil)
	origin, _ := h.datagrams()
	defer origin.Close()
	h.write("forge.py", forge)
	if err := kerneltest.In(h.pair.Server, func() error { return ip("route", "add", "10.99.0.0/24", "via", h.pair.AgentIP4) }); err != nil {
		t.Fatal(err)
	}
	arrived := h.arrived()
	got := h.output("sh", "-e", "-c", `
		unshare --net sleep 60 & pid=$!
		until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
		ip link add nest0 type veth peer name nest1 netns $pid
		ip addr add 10.99.0.1/24 dev nest0
		ip link set nest0 up
		echo 1 >/proc/sys/net/ipv4/ip_forward
		within() { nsenter --net=/proc/$pid/ns/net "$@"; }
		within ip link set lo up
		within ip addr add 10.99.0.2/24 dev nest1
		within ip link set nest1 up
		within ip route add default via 10.99.0.1
		for i in $(seq 200); do
			if code=$(within curl -sS -o /dev/null -w '%{http_code}' https://`+loadHost+`/v1/models 2>refused); then break; fi
			grep -q 'refused\|Could not connect\|Failed to connect' refused || cat refused
			sleep 0.05
		done
		echo "request $code"
		within python3 forge.py 10.77.0.1 "$(ip -o link show nest0 | sed 's/.*ether \([^ ]*\).*/\1/')" nest1 10.99.0.2
		within python3 -c 'import socket
try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"datagram", ("10.77.0.1", 443))
except OSError as e: print("datagram", type(e).__name__)'
		kill $pid`)
	if want := "request 200\nframe ENOBUFS\nraw EPERM\ndatagram ConnectionRefusedError\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := received(origin); got != "" {
		t.Errorf("the origin got %q", got)
	}
	if n := h.arrived() - arrived; n != 1 {
		t.Errorf("%d connections reached the origin, want sluice's one", n)
	}
	h.seen(0, 1)
}
