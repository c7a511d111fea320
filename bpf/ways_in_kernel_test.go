package bpf_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestWaysOfAsking are those ways round that lie in how the kernel is asked: by which call, by what kind of program, for what address.
func TestWaysOfAsking(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	t.Run("case_39_io_uring", func(t *testing.T) { uring(t, w) })
	t.Run("case_40_programs", func(t *testing.T) { programs(t, w) })
	t.Run("case_50_resolver_in_the_namespace", func(t *testing.T) { resolver(t, w) })
	t.Run("addresses_in_disguise", func(t *testing.T) {
		for name, dst := range map[string]string{
			// 10.77.0.1 is a4d:1 in hexadecimal.
			"IPv4-compatible": "[::a4d:1]:443", "NAT64": "[64:ff9b::a4d:1]:443", "6to4": "[2002:a4d:1::1]:443", "SIIT": "[::ffff:0:a4d:1]:443",
			"its own": w.AgentIP4 + ":443", "its own, v6": "[" + w.AgentIP6 + "]:443", "multicast": "[ff02::1]:443", "broadcast": "255.255.255.255:443",
		} {
			t.Run(name, func(t *testing.T) { w.proxied(t, order{Do: "dial", Dst: dst}) })
		}
		// These are loopback, and nobody is there: they must not come out anywhere else.
		for _, dst := range []string{"127.0.0.2:443", "[::ffff:127.0.0.2]:443", "0.0.0.0:443", "[::]:443", "[::ffff:0.0.0.0]:443"} {
			w.agent.refused(t, order{Do: "dial", Dst: dst})
		}
		w.untouched(t)
	})
	t.Run("sources", func(t *testing.T) {
		for _, o := range []order{
			{Dst: origin4, Source: "127.0.0.2:0"},
			{Dst: origin4, Source: "127.0.0.1:0"},
			{Dst: origin4, Source: w.AgentIP4 + ":0", ReusePort: true},
			{Dst: origin4, Source: w.AgentIP4 + ":0", Device: w.Link},
		} {
			o.Do = "dial"
			w.proxied(t, o)
		}
	})
	t.Run("routes_of_its_own", func(t *testing.T) {
		// To loopback, which is let be, by way of the origin; and what is redirected by way of it, which has the listener's port then.
		for _, c := range []struct{ dst, via, counter string }{
			{"127.0.0.1:443", origin4, "dropped_"},
			{"[::1]:443", origin6, "dropped_"},
			{origin4, "10.77.0.1:0", ""},
			{origin6, "[fd77::1]:0", ""},
		} {
			for protocol, kind := range map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM} {
				counter := c.counter + protocol
				if c.counter == "" {
					counter = map[string]string{"tcp": "redirected", "udp": "refused_udp"}[protocol]
				}
				before := w.count(t, counter)
				got := w.agent.do(order{Do: "source route", Type: kind, Dst: c.dst, Dsts: []string{c.via}, Wait: 200 * time.Millisecond})
				if got.Error == "" || strings.HasPrefix(got.Error, "the route") || w.count(t, counter) == before {
					t.Errorf("%s to %s: %+v, not counted as %s", protocol, c.dst, got, counter)
				}
			}
		}
		w.untouched(t)
	})
	t.Run("families_mixed", func(t *testing.T) { familiesMixed(t, w) })
	t.Run("listener_port_shared_by_reuseport", func(t *testing.T) {
		for _, ip := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::]"} {
			if got := w.agent.do(order{Do: "bind", Dst: fmt.Sprintf("%s:%d", ip, w.doorman.port), ReusePort: true}); got.Error != "EADDRINUSE" {
				t.Errorf("%s: %+v", ip, got)
			}
		}
	})
	t.Run("datagram_socket_used_before", func(t *testing.T) {
		for _, pair := range [][2]string{{"10.77.0.1:53", origin4}, {"[fd77::1]:53", origin6}, {"127.0.0.1:443", origin4}} {
			if got := w.agent.do(order{Do: "reuse", Dsts: pair[:1], Dst: pair[1]}); got.Error != "" || len(got.Wrong) != 0 {
				t.Errorf("%v: %+v", pair, got)
			}
		}
		w.untouched(t)
	})
	t.Run("fast_open_to_a_second_destination", func(t *testing.T) {
		got := w.agent.do(order{Do: "sendopen", Dsts: []string{"10.77.0.1:80"}, Dst: origin4})
		if got.Error != "EISCONN" && got.Peer != "10.77.0.1:80" {
			t.Errorf("%+v", got)
		}
		eventually(t, "the first arrives", func() bool { return w.origin.tcp.Load() > 0 })
		if n := w.origin.tcp.Swap(0); n != 1 {
			t.Errorf("origin saw %d connections, want the first alone", n)
		}
	})
	t.Run("tcp_repair", func(t *testing.T) {
		for _, dst := range []string{origin4, origin6} {
			_ = w.agent.do(order{Do: "repair", Dst: dst})
		}
		w.untouched(t)
		eventually(t, "no flow is left", func() bool { return w.flows(t) == 0 })
	})
	t.Run("case_16_frames_of_its_own_making", TestGuardFrames)
	t.Run("case_17_xdp_and_other_families", func(t *testing.T) {
		const rds, tipc, smc = 21, 30, 43
		refused := uint64(0)
		before := w.count(t, "refused_protocol")
		if len(optional) == 0 && takesLSM() {
			t.Error("the kernel takes LSM programs, and the hook of socket families is not in force")
		}
		for _, family := range []int{unix.AF_XDP, rds, tipc, smc} {
			got := w.agent.do(order{Do: "socket", Socket: "x", Family: family, Type: unix.SOCK_RAW, Dst: origin4})
			if len(optional) == 0 && family == unix.AF_XDP {
				t.Logf("this kernel has no LSM programs on cgroups: doctor warns (%+v)", got)
			} else if got.Error != "EAFNOSUPPORT" {
				t.Errorf("family %d: %+v", family, got)
			}
			refused++
		}
		if n := w.count(t, "refused_protocol") - before; len(optional) > 0 && n != refused {
			t.Errorf("counted %d, refused %d", n, refused)
		}
		// One outside of the cgroup may, and the agent may have what is none of these.
		if got := newAgent(t, kerneltest.Cgroup(t), w.Agent).do(order{Do: "socket", Socket: "x", Family: unix.AF_XDP, Type: unix.SOCK_RAW, Dst: origin4}); got.Error != "" &&
			!errors.Is(socketError(unix.AF_XDP, unix.SOCK_RAW), unix.EAFNOSUPPORT) { // the kernel has none
			t.Errorf("outside: %+v", got)
		}
		for _, family := range []int{unix.AF_UNIX, unix.AF_NETLINK} {
			if got := w.agent.do(order{Do: "socket", Socket: "x", Family: family, Type: unix.SOCK_DGRAM, Dst: origin4}); got.Error != "" {
				t.Errorf("family %d: %+v", family, got)
			}
			w.agent.do(order{Do: "close", Socket: "x"})
		}
	})
	t.Run("protocols_found_later", func(t *testing.T) {
		const smc, l2tp, dccp = 256, 115, 33
		for _, o := range []order{
			{Type: unix.SOCK_STREAM, Proto: smc},
			{Type: unix.SOCK_DGRAM, Proto: l2tp},
			{Type: 6 /* SOCK_DCCP */, Proto: dccp},
		} {
			for _, dst := range []string{origin4, origin6} {
				o.Do, o.Dst = "dial", dst
				switch got := w.agent.do(o); got.Error {
				case "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EPROTOTYPE", "EINVAL", "EAFNOSUPPORT":
				default:
					// SMC (Linux 6.11 by this name) begins as TCP, and is that to a peer without it: it is redirected as such.
					if o.Proto != smc || got.Error != "" || got.Said != dst {
						t.Errorf("%+v: %+v", o, got)
					}
				}
			}
		}
		w.untouched(t)
	})
	t.Run("address_changed_under_the_call", func(t *testing.T) {
		// Between a port that is not bound, where the origin answers, and one that is. Last: connections to the
		// former may still be on their way.
		got := w.agent.do(order{Do: "flip", N: 3000, Dsts: []string{"10.77.0.1:80", "10.77.0.9:443"}, Data: "origin"})
		if got.Error != "" || len(got.Wrong) != 0 || got.N == 0 {
			t.Errorf("%+v", got)
		}
	})
	eventually(t, "no flow is left", func() bool { return w.flows(t) == 0 })
}

// uring has the kernel open and connect sockets without a system call for either: by the task itself, by a worker, by a
// thread that polls.
func uring(t *testing.T, w *world) {
	if value, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); err == nil && strings.TrimSpace(string(value)) == "2" {
		t.Log("kernel.io_uring_disabled is 2: no process can make a ring, which closes this way")
		if got := w.agent.do(order{Do: "uring", Dst: origin4}); got.Error != "EPERM" {
			t.Errorf("%+v", got)
		}
		return
	}
	for _, how := range []order{{}, {Data: "async"}, {N: setupSQPoll}} {
		for _, dst := range []string{origin4, origin6, originMapped} {
			how.Do, how.Dst, how.Type = "uring", dst, 0
			w.proxied(t, how)
			how.Type = unix.SOCK_DGRAM
			w.agent.refused(t, how)
		}
		how.Dst, how.Type, how.Proto = origin4, unix.SOCK_STREAM, unix.IPPROTO_MPTCP
		if got := w.agent.do(how); got.Error != "EPROTONOSUPPORT" {
			t.Errorf("MPTCP: %+v", got)
		}
		how.Proto = 0
	}
	w.untouched(t)
}

// programs are kinds that hooks in a library would miss.
func programs(t *testing.T, w *world) {
	dir := t.TempDir()
	build := func(name string, env []string, argv ...string) string {
		t.Helper()
		out := filepath.Join(dir, name)
		cmd := exec.Command(argv[0], append(argv[1:], "-o", out, "./testdata/dial/go")...)
		if strings.HasPrefix(name, "c-") {
			cmd = exec.Command(argv[0], append(argv[1:], "-o", out, filepath.Join("testdata", "dial", "dial.c"))...)
		}
		cmd.Env = append(os.Environ(), env...)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, said)
		}
		return out
	}
	for name, program := range map[string]string{
		"Go without libc": build("go-static", []string{"CGO_ENABLED=0"}, "go", "build"),
		"32 bit":          build32(t, "./testdata/dial/go"),
		"static musl":     build("c-musl", nil, "musl-gcc", "-static", "-O2"),
	} {
		t.Run(name, func(t *testing.T) {
			if program == "" {
				t.Log("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION), which closes this way")
				return
			}
			got := w.agent.do(order{Do: "execute", Path: program, Data: "10.77.0.1 443"})
			if got.Said != origin4 {
				t.Errorf("%+v", got)
			}
			w.untouched(t)
		})
	}
}

// resolver: names are found as before, by a resolver on the namespace's loopback and by one elsewhere, over datagrams and
// TCP; DNS over TLS is redirected if its port is bound and else left alone.
func resolver(t *testing.T, w *world) {
	const at = "127.0.0.11:53"
	var p net.PacketConn
	must(t, kerneltest.In(w.Agent, func() (err error) {
		p, err = new(net.ListenConfig).ListenPacket(t.Context(), "udp", at)
		return err
	}))
	l, _ := listenIn(t, w.Agent, at)
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		for buf := make([]byte, 512); ; {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(append([]byte("answer to "), buf[:n]...), from)
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("answer"))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_, _ = p.Close(), l.Close()
		<-done
		<-done
	})
	w.agent.do(order{Do: "socket", Socket: "dns", Type: unix.SOCK_DGRAM, Dst: at})
	if got := w.agent.do(order{Do: "ask", Socket: "dns", Dst: at, Data: "question"}); got.Said != "answer to question" {
		t.Errorf("datagram: %+v", got)
	}
	w.agent.do(order{Do: "close", Socket: "dns"})
	if got := w.agent.do(order{Do: "dial", Dst: at}); got.Said != "answer" || got.Peer != at {
		t.Errorf("TCP: %+v", got)
	}
	far, _ := listenIn(t, w.Server, "[::]:53")
	tls, _ := listenIn(t, w.Server, "[::]:853")
	for _, l := range []*net.TCPListener{far, tls} {
		go func() {
			for {
				c, err := l.AcceptTCP()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("far"))
				_ = c.Close()
			}
		}()
		t.Cleanup(func() { _ = l.Close(); time.Sleep(time.Millisecond) })
	}
	for _, dst := range []string{"10.77.0.1:53", "[fd77::1]:53", "10.77.0.1:853"} {
		if got := w.agent.do(order{Do: "dial", Dst: dst}); got.Said != "far" || got.Peer != dst {
			t.Errorf("%s: %+v", dst, got)
		}
	}
	if got := w.agent.do(order{Do: "sendto", Dst: "10.77.0.1:53"}); got.Error != "" {
		t.Errorf("a datagram to a resolver: %+v", got)
	}
	must(t, w.SetPorts([]uint16{443, 8443, 853}))
	w.proxied(t, order{Do: "dial", Dst: "10.77.0.1:853"})
	must(t, w.SetPorts([]uint16{443, 8443}))
}

// takesLSM asks by another way than the product's whether the kernel takes LSM programs and asks
// them, and is one that has them on cgroups (Linux 6.0).
func takesLSM() bool {
	if version, err := features.LinuxVersionCode(); err != nil || version < 6<<16 {
		return false
	}
	if modules, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil && !strings.Contains(string(modules), "bpf") {
		return false
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "socket_create", License: "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	return err == nil && prog.Close() == nil
}

// build32 builds a Go program for the processor's mode of 32 bits, without libc; "" where the kernel does not run it.
func build32(t testing.TB, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-o", out, dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+map[string]string{"amd64": "386", "arm64": "arm"}[runtime.GOARCH])
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", dir, err, said)
	}
	if exec.Command(out).Run() != nil {
		return ""
	}
	return out
}
