package bpf_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
)

// TestNoWayByIPv6: a namespace that cannot reach IPv6's internet says so to whoever connects, as the kernel would. To be sent to the
// listener would be to succeed, and no client tries its next address then.
func TestNoWayByIPv6(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	all, err := w.Listeners()
	must(t, err)
	l := all[w.doorman.cookie]
	events, err := w.Events()
	must(t, err)
	t.Cleanup(func() { _ = events.Close() })
	const internet6 = "[2001:db8::1]:443"
	w.proxied(t, order{Do: "dial", Dst: internet6}) // nothing is known of the namespace

	l.NoWay6 = true
	must(t, w.SetListener(w.doorman.cookie, l))
	before := w.count(t, "refused_no_way6")
	for _, o := range []order{{Dst: internet6}, {Dst: internet6, V6Only: true}, {Dst: internet6, Source: "[" + w.AgentIP6 + "]:0"}} {
		o.Do = "dial"
		if got := w.agent.do(o); got.Error != "ENETUNREACH" {
			t.Errorf("%+v: %+v", o, got)
		}
	}
	if n := w.count(t, "refused_no_way6") - before; n != 3 {
		t.Errorf("counted %d times", n)
	}
	// Somebody has to find out when a way is there.
	e, err := events.Read()
	must(t, err)
	if e.Cookie != w.doorman.cookie || e.PID == 0 {
		t.Errorf("told of %+v", e)
	}
	// Other addresses of IPv6 have routes of their own, and IPv4 is IPv4.
	for _, dst := range []string{origin4, origin6, originMapped} {
		w.proxied(t, order{Do: "dial", Dst: dst})
	}
	if got := w.agent.do(order{Do: "dial", Dst: "[::1]:443", Family: unix.AF_INET6}); got.Error != "ECONNREFUSED" {
		t.Errorf("loopback: %+v", got)
	}

	l.NoWay6 = false
	must(t, w.SetListener(w.doorman.cookie, l))
	w.proxied(t, order{Do: "dial", Dst: internet6})
	if all, err := w.Listeners(); err != nil || all[w.doorman.cookie] != l {
		t.Errorf("read back %+v, %v", all, err)
	}
}
