package bpf_test

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

const (
	origin4      = "10.77.0.1:443"
	origin6      = "[fd77::1]:443"
	originMapped = "[::ffff:10.77.0.1]:443"
)

// sysctl sets a network namespace's own.
func sysctl(t testing.TB, netns, name, value string) {
	t.Helper()
	must(t, kerneltest.In(netns, func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644) }))
}

// TestWaysRound tries to get past the redirect. The numbers are the project's list of such ways.
func TestWaysRound(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	index := 0
	must(t, kerneltest.In(w.Agent, func() error {
		i, err := net.InterfaceByName(w.Link)
		if err == nil {
			index = i.Index
		}
		return err
	}))
	for name, o := range map[string]order{
		"case_01_plain_v4":          {Dst: origin4},
		"case_01_other_bound_port":  {Dst: "10.77.0.1:8443"},
		"case_02_plain_v6":          {Dst: origin6},
		"case_03_v4_mapped":         {Dst: originMapped},
		"case_04_v6_only":           {Dst: origin6, V6Only: true},
		"case_06_bind_source_v4":    {Dst: origin4, Source: w.AgentIP4 + ":0"},
		"case_06_bind_source_port":  {Dst: origin4, Source: w.AgentIP4 + ":5353"},
		"case_06_bind_mapped":       {Dst: originMapped, Source: "[::ffff:" + w.AgentIP4 + "]:0"},
		"case_07_bind_source_v6":    {Dst: origin6, Source: "[" + w.AgentIP6 + "]:0"},
		"case_08_bind_to_device_v4": {Dst: origin4, Device: w.Link},
		"case_08_bind_to_device_v6": {Dst: origin6, Device: w.Link},
		"case_09_unicast_if_v4":     {Dst: origin4, Family: unix.AF_INET, Index: index},
		"case_09_unicast_if_v6":     {Dst: origin6, Family: unix.AF_INET6, Index: index},
	} {
		t.Run(name, func(t *testing.T) {
			o.Do = "dial"
			w.proxied(t, o)
		})
	}
	t.Run("case_10_transparent_source", func(t *testing.T) { foreignSource(t, w) })
	t.Run("case_11_non_blocking_connect_twice", func(t *testing.T) {
		for _, dst := range []string{origin4, origin6, originMapped} {
			before := w.count(t, "redirected")
			got := w.agent.do(order{Do: "twice", Dst: dst})
			if got.Error != "" || len(got.Wrong) != 0 || got.Said != plain(dst) || got.Peer != dst {
				t.Errorf("%s: %+v", dst, got)
			}
			if n := w.count(t, "redirected") - before; n != 1 {
				t.Errorf("%s: redirected %d times", dst, n)
			}
		}
		w.untouched(t)
	})
	t.Run("case_12_fast_open_1000", func(t *testing.T) {
		sysctl(t, w.Agent, "ipv4/tcp_fastopen", "1031")
		sysctl(t, w.Server, "ipv4/tcp_fastopen", "1031")
		missing := w.doorman.noFlow.Load()
		got := w.agent.do(order{Do: "fastopen", N: 1000, Dsts: []string{origin4, origin6, originMapped, "10.77.0.1:8443"}})
		if got.Error != "" || got.N != 1000 || w.doorman.noFlow.Load() != missing {
			t.Errorf("%+v; %d without a flow", got, w.doorman.noFlow.Load()-missing)
		}
		w.untouched(t)
	})
	t.Run("case_13_disconnect_and_reconnect", func(t *testing.T) { reconnect(t, w) })
	t.Run("case_14_mptcp", func(t *testing.T) {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if got := w.agent.do(order{Do: "dial", Family: family, Proto: unix.IPPROTO_MPTCP, Dst: origin4}); got.Error != "EPROTONOSUPPORT" {
				t.Errorf("family %d: %+v", family, got)
			}
		}
		if got := w.agent.do(order{Do: "go", Dst: origin4}); got.Said != origin4 || got.Peer != origin4 {
			t.Errorf("a client that asks for MPTCP does not fall back: %+v", got)
		}
		w.untouched(t)
	})
	t.Run("case_15_other_protocols", func(t *testing.T) { otherProtocols(t, w) })
	t.Run("case_15_raw_sockets", func(t *testing.T) { rawSockets(t, w) })
	t.Run("case_19_udp", func(t *testing.T) { datagrams(t, w) })
	t.Run("case_42_getpeername", func(t *testing.T) {
		for _, dst := range []string{origin4, origin6, originMapped} {
			w.proxied(t, order{Do: "dial", Dst: dst}) // asserts the peer
		}
		// What is not redirected keeps its own peer, on the socket that was redirected before too.
		w.agent.do(order{Do: "socket", Socket: "s", Dst: origin4})
		w.agent.do(order{Do: "connect", Socket: "s", Dst: origin4})
		w.agent.do(order{Do: "disconnect", Socket: "s"})
		got := w.agent.do(order{Do: "connect", Socket: "s", Dst: "10.77.0.1:80"})
		w.agent.do(order{Do: "close", Socket: "s"})
		if got.Said != "origin" || got.Peer != "10.77.0.1:80" {
			t.Errorf("a port that is not bound: %+v", got)
		}
	})
	eventually(t, "no flow is left", func() bool { return w.flows(t) == 0 })
}

// foreignSource binds to an address that the namespace does not have. Redirected to loopback
// it can only work where the way back is local too.
func foreignSource(t *testing.T, w *world) {
	for _, o := range []order{
		{Dst: origin4, Source: "10.99.0.1:0", Transparent: true},
		{Dst: origin4, Source: "10.99.0.1:0", Freebind: true},
	} {
		o.Do = "dial"
		if got := w.agent.do(o); got.Error == "" && got.Said != plain(o.Dst) {
			t.Errorf("%+v: %+v", o, got)
		}
		w.untouched(t)
	}
	must(t, kerneltest.In(w.Agent, func() error { return run(t, "ip", "route", "add", "local", "10.99.0.0/24", "dev", "lo") }))
	w.proxied(t, order{Do: "dial", Dst: origin4, Source: "10.99.0.1:0", Transparent: true})
	w.proxied(t, order{Do: "dial", Dst: origin4, Source: "10.99.0.1:0", Freebind: true})
}

func reconnect(t *testing.T, w *world) {
	for _, pair := range [][2]string{
		{origin4, "10.77.0.9:8443"},
		{origin6, "[fd77::9]:8443"},
		{origin6, originMapped}, // the other way round Linux itself cannot
	} {
		w.agent.do(order{Do: "socket", Socket: "s", Family: family(pair), Dst: pair[0]})
		for _, dst := range pair {
			got := w.agent.do(order{Do: "connect", Socket: "s", Dst: dst})
			if got.Error != "" || got.Said != plain(dst) || got.Peer != dst {
				t.Errorf("%s: %+v", dst, got)
			}
			if got := w.agent.do(order{Do: "disconnect", Socket: "s"}); got.Error != "" {
				t.Errorf("disconnect: %+v", got)
			}
		}
		w.agent.do(order{Do: "close", Socket: "s"})
	}
	w.untouched(t)
}

func family(pair [2]string) int {
	if pair[0] == origin4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// otherProtocols are sockets that connect hooks do not see: what they send to a bound port is dropped.
func otherProtocols(t *testing.T, w *world) {
	before, sent := w.count(t, "dropped_protocol"), uint64(0)
	for _, dst := range []string{origin4, origin6} {
		for _, proto := range []int{unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP} {
			typ := unix.SOCK_DGRAM
			if proto == unix.IPPROTO_SCTP {
				typ = unix.SOCK_STREAM
			}
			got := w.agent.do(order{Do: "socket", Socket: "s", Type: typ, Proto: proto, Dst: dst})
			if got.Error == "EPROTONOSUPPORT" || got.Error == "ESOCKTNOSUPPORT" {
				continue // this kernel has none: SCTP may not be built, and 7.3 has no UDP-Lite any more
			}
			if proto == unix.IPPROTO_UDPLITE {
				sent++
			}
			w.agent.do(order{Do: "connect", Socket: "s", Dst: dst, Data: "mute"})
			got = w.agent.do(order{Do: "say", Socket: "s", Data: "hello"})
			if got.Error != "EPERM" && (proto != unix.IPPROTO_SCTP || got.Error != "EPIPE") { // its association was never made
				t.Errorf("protocol %d to %s: %+v", proto, dst, got)
			}
			w.agent.do(order{Do: "close", Socket: "s"})
		}
	}
	if n := w.count(t, "dropped_protocol") - before; n < sent {
		t.Errorf("counted %d times, sent %d", n, sent)
	}
	w.untouched(t)
}

// TestStrict refuses sockets of all kinds that connect hooks do not see.
func TestStrict(t *testing.T) {
	w := newWorld(t, bpf.Options{Strict: true})
	plain := newAgent(t, "", w.Agent)
	refused := uint64(0)
	before := w.count(t, "refused_protocol")
	for _, o := range []order{
		{Type: unix.SOCK_STREAM, Proto: unix.IPPROTO_SCTP},
		{Type: unix.SOCK_SEQPACKET, Proto: unix.IPPROTO_SCTP},
		{Type: unix.SOCK_DGRAM, Proto: unix.IPPROTO_UDPLITE},
		{Type: unix.SOCK_RAW, Proto: unix.IPPROTO_TCP},
		{Type: unix.SOCK_RAW, Proto: unix.IPPROTO_UDP},
		{Type: unix.SOCK_RAW, Proto: unix.IPPROTO_ICMP},
		{Type: unix.SOCK_RAW, Proto: unix.IPPROTO_ICMPV6},
		{Type: unix.SOCK_RAW, Proto: unix.IPPROTO_RAW},
	} {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			o.Family, o.Socket, o.Dst = family, "s", origin4
			if family == unix.AF_INET6 {
				o.Dst = origin6
			}
			o.Do = "socket"
			if has := plain.do(o); has.Error == "" { // else the kernel has none, and says so itself
				refused++
				plain.do(order{Do: "close", Socket: "s"})
			} else if o.Type == unix.SOCK_RAW {
				t.Errorf("type %d, protocol %d, family %d of somebody else: %+v", o.Type, o.Proto, family, has)
			}
			if got := w.agent.do(o); got.Error != "EPROTONOSUPPORT" && got.Error != "ESOCKTNOSUPPORT" {
				t.Errorf("type %d, protocol %d, family %d: %+v", o.Type, o.Proto, family, got)
			}
		}
	}
	if n := w.count(t, "refused_protocol") - before; n < refused {
		t.Errorf("counted %d times, refused %d", n, refused)
	}
	// ping(8) as it is without privilege goes on.
	if got := w.agent.do(order{Do: "socket", Socket: "ping", Type: unix.SOCK_DGRAM, Proto: unix.IPPROTO_ICMP, Dst: origin4}); got.Error == "EPROTONOSUPPORT" {
		t.Errorf("an ICMP datagram socket: %+v", got)
	} else if got.Error == "" {
		w.agent.do(order{Do: "close", Socket: "ping"})
	}
	w.untouched(t)
}

func datagrams(t *testing.T, w *world) {
	before, n := w.count(t, "refused_udp"), uint64(0)
	for _, do := range []string{"dial", "sendto", "sendmmsg", "gso", "pktinfo"} {
		for dst, source := range map[string]string{origin4: w.AgentIP4 + ":0", origin6: "[" + w.AgentIP6 + "]:0", originMapped: ""} {
			o := order{Do: do, Type: unix.SOCK_DGRAM, Dst: dst}
			switch {
			case do == "pktinfo" && source == "":
				continue
			case do == "pktinfo":
				o.Source = source
			}
			w.agent.refusedAtOnce(t, o)
			n++
		}
	}
	if got := w.count(t, "refused_udp") - before; got < n {
		t.Errorf("counted %d, refused %d", got, n)
	}
	// Other ports are none of ours, nor is loopback.
	for _, dst := range []string{"10.77.0.1:53", "[fd77::1]:53", "127.0.0.1:443", "[::1]:443"} {
		if got := w.agent.do(order{Do: "sendto", Dst: dst}); got.Error != "" {
			t.Errorf("%s: %+v", dst, got)
		}
	}
	w.untouched(t)
}

func TestWithoutIPv6(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	sysctl(t, w.Agent, "ipv6/conf/all/disable_ipv6", "1")
	must(t, w.DeleteListener(w.doorman.cookie))
	d := welcome(t, w.Redirect, w.Agent)
	if listeners, err := w.Listeners(); err != nil || listeners[d.cookie].Port6 != 0 {
		t.Fatalf("listens on ::1 without IPv6: %v, %v", listeners, err)
	}
	t.Run("case_05_v4_works", func(t *testing.T) {
		w.proxied(t, order{Do: "dial", Dst: origin4})
		w.proxied(t, order{Do: "dial", Dst: originMapped})
	})
	t.Run("case_05_v6_errors_fast", func(t *testing.T) {
		for i, o := range []order{{Dst: origin6}, {Dst: origin6, V6Only: true}} {
			o.Do = "dial"
			got := w.agent.do(o)
			// The first is handed over, for the daemon to fail as the agent's own connect would have;
			// the second has no way to a v4 listener.
			if handed := got.Said == origin6 && i == 0; (got.Error == "" && !handed) || got.Took > 500*time.Millisecond {
				t.Errorf("%+v: %+v", o, got)
			}
		}
		w.untouched(t)
	})
}

func run(t testing.TB, argv ...string) error {
	cmd := kerneltest.Command(t, "", nil, argv...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", argv, err, out)
	}
	return nil
}
