package bpf_test

import (
	"testing"

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
