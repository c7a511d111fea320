//go:build !race

package bpf_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sluice-proxy/sluice/bpf"
)

// TestAllocationsOfATake holds what each accepted connection pays before anything of it is read.
func TestAllocationsOfATake(t *testing.T) {
	const flows, most = 50, 0
	w := newWorld(t, bpf.Options{})
	l, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(l)}))
	var peers, locals [flows + 1]netip.AddrPort // AllocsPerRun does it once more, to warm up
	for i := range peers {
		socket := fmt.Sprintf("s%d", i)
		w.agent.do(order{Do: "socket", Socket: socket, Dst: origin4})
		w.agent.do(order{Do: "connect", Socket: socket, Dst: origin4, Data: "mute"})
		c, err := l.AcceptTCP()
		must(t, err)
		defer func() { _ = c.Close() }()
		peers[i], locals[i] = addrPort(c.RemoteAddr()), addrPort(c.LocalAddr())
	}
	next := 0
	n := testing.AllocsPerRun(flows, func() {
		if _, ok, err := w.Take(cookie, peers[next], locals[next]); !ok || err != nil {
			t.Fatalf("flow %d: %v, %v", next, ok, err)
		}
		next++
	})
	if n > most {
		t.Errorf("%v allocations, were %d", n, most)
	}
}
