package bpf_test

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
)

// BenchmarkConnect is connect(2) to a listener on loopback: untouched, past the hooks,
// and redirected by them.
func BenchmarkConnect(b *testing.B) {
	w := newWorld(b, bpf.Options{})
	plain := newAgent(b, "", w.Agent)
	local, _ := listenIn(b, w.Agent, "127.0.0.1:0")
	w.doorman.serve(b, local) // finds no flow, and says so
	for _, c := range []struct {
		name  string
		agent *agent
		dst   string
	}{
		{"no_hooks", plain, local.Addr().String()},
		{"hooks_loopback", w.agent, local.Addr().String()},
		{"hooks_redirected", w.agent, origin4},
	} {
		b.Run(c.name, func(b *testing.B) {
			got := c.agent.do(order{Do: "bench", N: b.N, Dst: c.dst})
			if got.Error != "" {
				b.Fatalf("%+v", got)
			}
			b.ReportMetric(float64(got.N), "connect-ns")
		})
	}
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
