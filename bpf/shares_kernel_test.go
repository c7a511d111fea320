package bpf_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestOneTargetLeavesFlowsForOthers has a target connect as often as it can where nobody takes what it has connected, at once and put off
// until the data leaves. Another one, which has its own namespace and listener, does not come to feel it.
func TestOneTargetLeavesFlowsForOthers(t *testing.T) {
	const size = 1024
	for name, flood := range map[string]func(t *testing.T, w *world) (refused string, times int){
		"at once": func(t *testing.T, w *world) (string, int) {
			for i := range size {
				socket := fmt.Sprint(i)
				w.agent.do(order{Do: "socket", Socket: socket, Dst: origin4})
				got := w.agent.do(order{Do: "connect", Socket: socket, Dst: origin4, Data: "mute"})
				if got.Error == "ECONNREFUSED" {
					w.agent.refusedAtOnce(t, order{Do: "dial", Dst: origin4})
					return "refused_share_full", size - i
				}
				if got.Error != "" {
					t.Fatalf("connect %d: %+v", i, got)
				}
			}
			return "refused_share_full", 0
		},
		"put off": func(t *testing.T, w *world) (string, int) {
			sysctl(t, w.Agent, "ipv4/tcp_fastopen", "1031")
			const many = size + 1024 + 5
			if got := w.agent.do(order{Do: "put off", N: many, Dst: origin4}); got.Error != "" {
				t.Fatalf("%+v", got)
			}
			w.agent.do(order{Do: "say all", N: many})
			return "lost_publish", many - w.flows(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, bpf.Options{MaxFlows: size})
			mute, cookie := listenIn(t, w.Agent, "127.0.0.1:0") // accepts in the kernel, takes no flow
			must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(mute)}))
			cgroup, netns := kerneltest.Cgroup(t), kerneltest.NetNS(t)
			must(t, w.Attach(cgroup))
			welcome(t, w.Redirect, netns)
			other := newAgent(t, cgroup, netns)
			refused, times := flood(t, w)
			t.Logf("%d flows of the one target, %d refused", w.flows(t), times)
			for i := range 10 {
				if got := other.do(order{Do: "dial", Dst: origin4}); got.Said != origin4 {
					t.Fatalf("another target's connect %d: %+v", i, got)
				}
			}
			if n := w.count(t, refused); n == 0 {
				t.Errorf("%s is 0", refused)
			}
			w.untouched(t)
		})
	}
}

// TestManyTargetsLeaveFlowsForOthers has several do so one after another, each with more than there is for it. Another one can have its
// part of what is kept for those who have few.
func TestManyTargetsLeaveFlowsForOthers(t *testing.T) {
	const size, together = 1024, 6
	w := newWorld(t, bpf.Options{MaxFlows: size})
	sysctl(t, w.Agent, "ipv4/tcp_fastopen", "1031")
	mute, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(mute)}))
	for range together {
		greedy := kerneltest.Cgroup(t)
		must(t, w.Attach(greedy))
		a := newAgent(t, greedy, w.Agent)
		if got := a.do(order{Do: "put off", N: size / 2, Dst: origin4}); got.Error != "" {
			t.Fatalf("%+v", got)
		}
		a.do(order{Do: "say all", N: size / 2})
		own, all := w.waiting(t, greedy)
		t.Logf("%d of %d flows", own, all)
		if own == size/2 {
			t.Error("all found room")
		}
	}
	const part = size / 3 / (together + 2) // w's own and nobody's are there, too
	for i := range part {
		socket := fmt.Sprint(i)
		w.agent.do(order{Do: "socket", Socket: socket, Dst: origin4})
		if got := w.agent.do(order{Do: "connect", Socket: socket, Dst: origin4, Data: "mute"}); got.Error != "" {
			t.Fatalf("connect %d of %d: %+v", i, part, got)
		}
	}
	if own, all := w.waiting(t, w.cgroup); own != part {
		t.Errorf("%d of %d flows, want %d", own, all, part)
	}
	w.untouched(t)
}

// waiting is how many flows the pinned tally has of a target's share and of all; share 0 is that of no target.
func (w *world) waiting(t testing.TB, cgroup string) (own, all uint64) {
	t.Helper()
	type place struct{ Published, Closed, Taken, Refused, Least uint64 }
	open := func(name string) *ebpf.Map {
		pins, err := filepath.Glob(filepath.Join(w.pins, "maps-*", name))
		must(t, err)
		m, err := ebpf.LoadPinnedMap(pins[0], nil)
		must(t, err)
		t.Cleanup(func() { _ = m.Close() })
		return m
	}
	tally, shares := open("tally"), open("shares")
	of := func(i uint32) uint64 {
		var p place
		must(t, tally.Lookup(i, &p))
		return p.Published - p.Closed - p.Taken
	}
	share := uint32(0)
	if cgroup != "" {
		must(t, shares.Lookup(inode(t, cgroup), &share))
		if share == 0 {
			t.Error("a target has nobody's share")
		}
	}
	return of(share), of(tally.MaxEntries() - 1)
}

// TestSharesLeakNothing follows a flow of each of two targets in every way that one can go.
func TestSharesLeakNothing(t *testing.T) {
	const source = "10.77.0.2:7001"
	w := newWorld(t, bpf.Options{})
	second := kerneltest.Cgroup(t)
	must(t, w.Attach(second))
	agents := map[string]*agent{w.cgroup: w.agent, second: newAgent(t, second, w.Agent)}
	mute, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(mute)}))
	counts := func(when, cgroup string, own, all uint64) {
		t.Helper()
		if o, a := w.waiting(t, cgroup); o != own || a != all {
			t.Errorf("%s: %d wait, %d of all, want %d and %d", when, o, a, own, all)
		}
	}
	connect := func(cgroup string) {
		t.Helper()
		agents[cgroup].do(order{Do: "socket", Socket: "s", Dst: origin4, Source: source, ReuseAddr: true})
		if got := agents[cgroup].do(order{Do: "connect", Socket: "s", Dst: origin4, Data: "mute"}); got.Error != "" {
			t.Fatalf("%+v", got)
		}
	}
	end := func(cgroup string) {
		agents[cgroup].do(order{Do: "close", Socket: "s"})
		c, err := mute.AcceptTCP()
		must(t, err)
		must(t, c.SetLinger(0))
		must(t, c.Close())
	}
	other := map[string]string{w.cgroup: second, second: w.cgroup}
	for cgroup, beside := range other {
		both := func(when string, own uint64) {
			t.Helper()
			counts(when, cgroup, own, own)
			counts(when+", the other's", beside, 0, own)
			counts(when+", nobody's", "", 0, own)
		}
		connect(cgroup)
		both("connected", 1)
		end(cgroup)
		eventually(t, "a socket that closed leaves no flow", func() bool { return w.flows(t) == 0 })
		both("closed", 0)

		connect(cgroup)
		c, err := mute.AcceptTCP()
		must(t, err)
		if _, ok, err := w.Take(cookie, addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())); !ok || err != nil {
			t.Errorf("take: %t, %v", ok, err)
		}
		both("taken", 0)
		must(t, errors.Join(c.SetLinger(0), c.Close()))
		agents[cgroup].do(order{Do: "close", Socket: "s"})

		connect(cgroup)
		must(t, w.Close())
		w.Redirect = load(t, bpf.Options{PinDir: w.pins})
		both("adopted", 1)
		if n, err := w.Sweep(0); err != nil || n != 1 {
			t.Errorf("swept %d, %v", n, err)
		}
		both("swept", 0)
		end(cgroup)
		both("closed after the sweep", 0)

		connect(cgroup)
		must(t, w.Detach(cgroup))
		if n := w.flows(t); n != 0 {
			t.Errorf("%d flows of what is detached", n)
		}
		counts("detached", "", 0, 0)
		end(cgroup)
		must(t, w.Attach(cgroup))
		both("attached again", 0)

		// One that closes without the programs, the hook being off; the other target has the port then.
		connect(cgroup)
		sockops, err := link.LoadPinnedLink(filepath.Join(w.pins, "links", fmt.Sprint(inode(t, cgroup)), "sockops"), nil)
		must(t, err)
		must(t, errors.Join(sockops.Detach(), sockops.Close()))
		end(cgroup)
		both("closed unseen", 1)
		connect(beside)
		counts("the port is the other's", beside, 1, 1)
		counts("it was the one's", cgroup, 0, 1)
		must(t, w.Attach(cgroup))
		end(beside)
		eventually(t, "the other's closes", func() bool { return w.flows(t) == 0 })
		both("all closed", 0)
	}
	w.untouched(t)
}

// TestSharesAreTheInnermostTargets: what a process in no target connects shares what is nobody's.
func TestSharesAreTheInnermostTargets(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	mute, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(mute)}))
	child := filepath.Join(w.cgroup, "child")
	leaf := filepath.Join(child, "leaf")
	must(t, os.MkdirAll(leaf, 0o755))
	must(t, w.Attach(child))
	a := newAgent(t, leaf, w.Agent)
	a.do(order{Do: "socket", Socket: "s", Dst: origin4})
	if got := a.do(order{Do: "connect", Socket: "s", Dst: origin4, Data: "mute"}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	for cgroup, want := range map[string]uint64{child: 1, w.cgroup: 0, "": 0} {
		if own, all := w.waiting(t, cgroup); own != want || all != 1 {
			t.Errorf("%s: %d of %d", cgroup, own, all)
		}
	}
	a.do(order{Do: "close", Socket: "s"})
	// A socket of the target's that somebody outside connects.
	w.agent.do(order{Do: "socket", Socket: "s", Dst: origin4})
	outside, pid := newAgent(t, kerneltest.Cgroup(t), w.Agent), w.agent.cmd.Process.Pid
	if got := outside.do(order{Do: "steal", Socket: "s", Data: fmt.Sprint(pid), N: socketOf(t, pid)}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	if got := outside.do(order{Do: "connect", Socket: "s", Dst: origin4, Data: "mute"}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	if own, all := w.waiting(t, ""); own != 1 {
		t.Errorf("nobody's: %d of %d", own, all)
	}
}
