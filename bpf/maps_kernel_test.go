package bpf_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// The set of ports is replaced over and over, while connects to one that stays go on.
func TestSetPortsLeavesNoGap(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	var stop atomic.Bool
	swapped, ended := 0, make(chan error, 1)
	go func() {
		sets := [][]uint16{{443, 8443}, {8443, 443, 1, 2, 3}, {443, 8443, 9000}}
		for ; !stop.Load(); swapped++ {
			if err := w.SetPorts(sets[swapped%len(sets)]); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	got := w.agent.do(order{Do: "many", N: 2000})
	stop.Store(true)
	must(t, <-ended)
	if got.N != 2000 || len(got.Wrong) != 0 || swapped < 3 {
		t.Errorf("%+v; swapped %d times", got, swapped)
	}
	w.untouched(t)
	must(t, w.SetPorts([]uint16{8443}))
	if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Said != "origin" {
		t.Errorf("a port that is bound no more: %+v", got)
	}
	must(t, w.SetPorts(nil))
	if got := w.agent.do(order{Do: "dial", Dst: "10.77.0.1:8443"}); got.Said != "origin" {
		t.Errorf("no port is bound: %+v", got)
	}
}

func TestSweep(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	mute, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(mute)}))
	w.agent.do(order{Do: "socket", Socket: "s", Dst: origin4})
	if got := w.agent.do(order{Do: "connect", Socket: "s", Dst: origin4, Data: "mute"}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	if n, err := w.Sweep(time.Minute); err != nil || n != 0 || w.flows(t) != 1 {
		t.Errorf("swept %d young ones, %v", n, err)
	}
	if n, err := w.Sweep(0); err != nil || n != 1 || w.flows(t) != 0 {
		t.Errorf("swept %d old ones, %v", n, err)
	}
}

// A daemon that ended between deleting a flow and noting it has left the programs a count that is too high. Here somebody
// else deletes it; the only place is free again after the next sweep.
func TestSweepCorrectsTheTally(t *testing.T) {
	w := newWorld(t, bpf.Options{MaxFlows: 1})
	mute, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(mute)}))
	connect := func(socket string) string {
		w.agent.do(order{Do: "socket", Socket: socket, Dst: origin4})
		return w.agent.do(order{Do: "connect", Socket: socket, Dst: origin4, Data: "mute"}).Error
	}
	if got := connect("first"); got != "" {
		t.Fatal(got)
	}
	pins, err := filepath.Glob(filepath.Join(w.pins, "maps-*", "flows"))
	must(t, err)
	flows, err := ebpf.LoadPinnedMap(pins[0], nil)
	must(t, err)
	defer func() { _ = flows.Close() }()
	var key []byte
	must(t, flows.NextKey(nil, &key))
	must(t, flows.Delete(key))
	if got := connect("second"); got != "ECONNREFUSED" {
		t.Errorf("before the sweep: %q", got)
	}
	if n, err := w.Sweep(time.Minute); err != nil || n != 0 {
		t.Errorf("swept %d, %v", n, err)
	}
	if got := connect("third"); got != "" {
		t.Errorf("after the sweep: %s", got)
	}
	if got := connect("fourth"); got != "ECONNREFUSED" {
		t.Errorf("the place was taken: %q", got)
	}
	if n, err := w.Sweep(0); err != nil || n != 1 {
		t.Errorf("swept %d, %v", n, err)
	}
	if got := connect("fifth"); got != "" {
		t.Errorf("what was swept gives its place back: %s", got)
	}
}

// A connect that fails after its redirect keeps no place, whatever the socket does then.
func TestFailedConnectKeepsNoPlace(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	failed := order{Do: "socket", Socket: "s", Dst: origin4, Source: "10.99.0.1:0", Freebind: true}
	for name, then := range map[string][]order{
		"closes":            {},
		"tries again":       {{Do: "connect", Dst: origin4}, {Do: "connect", Dst: "10.77.0.9:443"}},
		"goes on elsewhere": {{Do: "connect", Dst: "127.0.0.1:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w.agent.do(failed)
			if got := w.agent.do(order{Do: "connect", Socket: "s", Dst: origin4}); got.Error != "ENETUNREACH" {
				t.Fatalf("%+v", got)
			}
			for _, o := range then {
				o.Socket = "s"
				w.agent.do(o)
			}
			if n := w.flows(t); n > 1 {
				t.Errorf("%d places for one socket", n)
			}
			w.agent.do(order{Do: "close", Socket: "s"})
			if n := w.flows(t); n != 0 {
				t.Errorf("%d places for none", n)
			}
		})
	}
}

func TestTakeIsOnce(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	l, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(l)}))
	w.agent.do(order{Do: "socket", Socket: "s", Dst: origin4})
	w.agent.do(order{Do: "connect", Socket: "s", Dst: origin4, Data: "mute"})
	c, err := l.AcceptTCP()
	must(t, err)
	defer func() { _ = c.Close() }()
	peer, local := addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	for name, miss := range map[string]struct {
		cookie      uint64
		peer, local netip.AddrPort
	}{
		"another namespace": {cookie + 1, peer, local},
		"another port":      {cookie, netip.AddrPortFrom(peer.Addr(), peer.Port()+1), local},
		"another address":   {cookie, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), peer.Port()), local},
		"another listener":  {cookie, peer, netip.AddrPortFrom(local.Addr(), local.Port()+1)},
	} {
		if f, ok, err := w.Take(miss.cookie, miss.peer, miss.local); ok || err != nil {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port()) // v4-in-6 is the same key
	f, ok, err := w.Take(cookie, mapped, local)
	if err != nil || !ok || f.Dst.String() != origin4 || f.Cookie != cookie || f.CgroupID != inode(t, w.cgroup) ||
		int(f.PID) != w.agent.cmd.Process.Pid || f.Age <= 0 || f.Age > time.Minute {
		t.Errorf("%+v, %t, %v", f, ok, err)
	}
	if _, ok, err := w.Take(cookie, peer, local); ok || err != nil {
		t.Errorf("taken twice: %v", err)
	}
}

func TestCounters(t *testing.T) {
	w := newWorld(t, bpf.Options{Strict: true})
	for name, o := range map[string]order{
		"redirected":       {Do: "dial", Dst: origin4},
		"published":        {Do: "dial", Dst: origin6},
		"refused_udp":      {Do: "sendto", Dst: origin4},
		"refused_mptcp":    {Do: "dial", Dst: origin4, Proto: unix.IPPROTO_MPTCP},
		"refused_protocol": {Do: "dial", Dst: origin4, Type: unix.SOCK_RAW, Proto: unix.IPPROTO_RAW},
		"refused_bypass":   {Do: "frame", Bypass: true},
		"refused_bind":     {Do: "bind", Dst: fmt.Sprintf("127.0.0.1:%d", w.doorman.port)},
	} {
		before := w.count(t, name)
		got := w.agent.do(o)
		if n := w.count(t, name) - before; n != 1 {
			t.Errorf("%s counted %d times: %+v", name, n, got)
		}
	}
	must(t, w.DeleteListener(w.doorman.cookie))
	must(t, w.DeleteListener(w.doorman.cookie)) // no error
	for i, dst := range []string{origin4, origin6} {
		w.agent.do(order{Do: "dial", Dst: dst})
		if n := w.count(t, "refused_no_listener"); n != uint64(i+1) {
			t.Errorf("refused_no_listener is %d", n)
		}
	}
	all, err := w.Counters()
	must(t, err)
	if all["lost_publish"]+all["lost_event"]+all["refused_no_storage"] != 0 {
		t.Errorf("lost something: %v", all)
	}
}

// The listener's port is kept when nobody listens on it.
func TestBindToTheListenersPort(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	l, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	port := portOf(l)
	must(t, w.SetListener(cookie, bpf.Listener{Port4: port, Port6: port}))
	must(t, l.Close())
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::1]", "[::]", w.AgentIP4} {
		if got := w.agent.do(order{Do: "bind", Dst: fmt.Sprintf("%s:%d", host, port)}); got.Error != "EADDRINUSE" {
			t.Errorf("%s: %+v", host, got)
		}
		if got := w.agent.do(order{Do: "bind", Dst: host + ":0"}); got.Error != "" {
			t.Errorf("%s, any port: %+v", host, got)
		}
	}
	// Whoever is not in the cgroup may.
	other, _ := listenIn(t, w.Agent, fmt.Sprintf("127.0.0.1:%d", port))
	if portOf(net.Listener(other)) != port {
		t.Error("another port")
	}
}

func TestEventsAreToldOnceASecond(t *testing.T) {
	kerneltest.Require(t)
	r := load(t, bpf.Options{PinDir: pinDir(t)})
	must(t, r.SetPorts([]uint16{443}))
	cgroup := kerneltest.Cgroup(t)
	must(t, r.Attach(cgroup))
	events, err := r.Events()
	must(t, err)
	got := make(chan bpf.EventNoListener, 1000)
	ended := make(chan error, 1)
	go func() {
		defer close(got)
		for {
			ev, err := events.Read()
			if err != nil {
				ended <- err
				return
			}
			got <- ev
		}
	}()
	one, two := kerneltest.NetNS(t), kerneltest.NetNS(t)
	begin := time.Now()
	first, second := newAgent(t, cgroup, one), newAgent(t, cgroup, two)
	for range 50 {
		first.do(order{Do: "dial", Dst: origin4})
		second.do(order{Do: "dial", Dst: origin4})
	}
	most := 2 * (1 + int(time.Since(begin)/time.Second))
	pids := map[int]bool{first.cmd.Process.Pid: false, second.cmd.Process.Pid: false}
	// Each was told of by the time its first socket was there.
	for range pids {
		ev := <-got
		if seen, ok := pids[int(ev.PID)]; !ok || seen || ev.CgroupID != inode(t, cgroup) {
			t.Errorf("event %+v", ev)
		}
		pids[int(ev.PID)] = true
	}
	must(t, events.Close())
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	told := 2
	for range got {
		told++
	}
	if told > most {
		t.Errorf("told %d times in %s", told, time.Since(begin))
	}
	if all, err := r.Counters(); err != nil || all["lost_event"] != 0 || all["refused_no_listener"] != 100 {
		t.Errorf("%v, %v", all, err)
	}
}
