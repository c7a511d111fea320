package bpf_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// BenchmarkConnect is connect(2) to a listener on loopback: untouched, past the hooks, and redirected by them. They take
// turns, a batch each, and told is by how much a turn's others are dearer than its first, in the median, so that a busy
// machine is busy for all of them; and nobody waits for the connections, so that none of them wakes a process.
func BenchmarkConnect(b *testing.B) {
	const batch = 100
	w := newWorld(b, bpf.Options{})
	plain := newAgent(b, "", w.Agent)
	queue, port, cookie := queueIn(b, w.Agent)
	must(b, w.SetListener(cookie, bpf.Listener{Port4: port}))
	local := fmt.Sprintf("127.0.0.1:%d", port)
	cases := []struct {
		name  string
		agent *agent
		dst   string
		took  []int
	}{
		{name: "no-hooks-ns", agent: plain, dst: local},
		{name: "loopback-dearer-ns", agent: w.agent, dst: local},
		{name: "redirected-dearer-ns", agent: w.agent, dst: origin4},
	}
	for b.Loop() {
		for i := range cases {
			c := &cases[i]
			got := c.agent.do(order{Do: "bench", N: batch, Dst: c.dst})
			if got.Error != "" {
				b.Fatalf("%s: %+v", c.name, got)
			}
			c.took = append(c.took, got.N)
			for fd, _, err := unix.Accept(queue); err == nil; fd, _, err = unix.Accept(queue) {
				must(b, unix.Close(fd))
			}
		}
	}
	for i, c := range slices.Backward(cases) {
		for turn := range c.took {
			if i > 0 {
				c.took[turn] -= cases[0].took[turn]
			}
		}
		slices.Sort(c.took)
		b.ReportMetric(float64(c.took[len(c.took)/2]), c.name)
	}
}

// queueIn is a listener in a namespace that connections wait at until somebody looks.
func queueIn(t testing.TB, netns string) (fd int, port uint16, cookie uint64) {
	t.Helper()
	must(t, kerneltest.In(netns, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	}))
	t.Cleanup(func() { _ = unix.Close(fd) })
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(fd, 1024))
	name, err := unix.Getsockname(fd)
	must(t, err)
	cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	must(t, err)
	return fd, uint16(name.(*unix.SockaddrInet4).Port), cookie
}

// BenchmarkDatagram is sendto(2) to a port that is not bound, over a veth: of a cgroup that is no target's, of a target's
// by the cgroup's hooks, and of both with the guard on the link as well. The kernel tells what the guard itself takes.
func BenchmarkDatagram(b *testing.B) {
	w := newWorld(b, bpf.Options{})
	plain, judge := newAgent(b, "", w.Agent), w.GuardProgram(unix.ARPHRD_ETHER)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	must(b, err)
	b.Cleanup(func() { _ = stats.Close() })
	for _, guarded := range []bool{false, true} {
		if guarded {
			w.guardAll(b)
		}
		for _, c := range []struct {
			name  string
			agent *agent
		}{{"others", plain}, {"targets", w.agent}} {
			b.Run(fmt.Sprintf("%s_guard=%t", c.name, guarded), func(b *testing.B) {
				before, err := judge.Stats()
				must(b, err)
				got := c.agent.do(order{Do: "bench datagrams", N: b.N, Dst: "10.77.0.1:9"})
				if got.Error != "" {
					b.Fatalf("%+v", got)
				}
				b.ReportMetric(float64(got.N), "send-ns")
				after, err := judge.Stats()
				must(b, err)
				if runs := after.RunCount - before.RunCount; runs > 0 {
					b.ReportMetric(float64((after.Runtime-before.Runtime).Nanoseconds())/float64(runs), "guard-ns")
				}
			})
		}
	}
}
