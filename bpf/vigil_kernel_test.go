package bpf_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
)

// A cgroup that stands in a target's place may not reach bound ports until it is attached,
// also when nobody is there to do it; others may.
func TestVigil(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, w.Detach(w.cgroup))
	place, beside := filepath.Join(w.cgroup, "agent"), filepath.Join(w.cgroup, "agent2")
	must(t, os.Mkdir(place, 0o755))
	must(t, os.Mkdir(beside, 0o755))
	must(t, w.SetVigils([]string{place, filepath.Join(w.cgroup, "gone", "agent"), filepath.Join(w.cgroup, strings.Repeat("x", 200))}))
	direct := func(who *agent, what string) {
		t.Helper()
		for _, dst := range []string{origin4, origin6, originMapped} {
			if got := who.do(order{Do: "dial", Dst: dst}); got.Said != "origin" {
				t.Errorf("%s, %s: %+v", what, dst, got)
			}
		}
	}
	refused := func(who *agent, what string) {
		t.Helper()
		before := w.origin.tcp.Load()
		for _, dst := range []string{origin4, origin6, originMapped} {
			if got := who.do(order{Do: "dial", Dst: dst}); !strings.Contains(got.Error, "ECONNREFUSED") {
				t.Errorf("%s, %s: %+v", what, dst, got)
			}
		}
		if n := w.origin.tcp.Load() - before; n != 0 {
			t.Errorf("%s: %d connections came to the origin", what, n)
		}
	}
	inside := newAgent(t, place, w.Agent)
	refused(inside, "in the place")
	if n := w.count(t, "refused_unattached"); n != 3 {
		t.Errorf("%d refusals counted", n)
	}
	direct(newAgent(t, beside, w.Agent), "beside it")
	nested := filepath.Join(place, "nested", "twice")
	must(t, os.MkdirAll(nested, 0o755))
	refused(newAgent(t, nested, w.Agent), "below it")

	must(t, w.Attach(place))
	if got := inside.do(order{Do: "dial", Dst: origin4}); got.Said != plain(origin4) {
		t.Errorf("attached: %+v", got)
	}
	// What the redirect itself refuses it has refused.
	counted := w.count(t, "refused_unattached")
	l, err := w.Listeners()
	must(t, err)
	without := l[w.doorman.cookie]
	without.NoWay6 = true
	must(t, w.SetListener(w.doorman.cookie, without))
	if got := inside.do(order{Do: "dial", Dst: "[2001:db8::1]:443"}); got.Error != "ENETUNREACH" {
		t.Errorf("attached, and no way by IPv6: %+v", got)
	}
	inside.refusedAtOnce(t, order{Do: "dial", Type: unix.SOCK_DGRAM, Dst: origin4})
	if n := w.count(t, "refused_unattached"); n != counted {
		t.Errorf("%d that the redirect refused were counted as unattached", n-counted)
	}
	must(t, w.Detach(place))
	refused(inside, "detached, and still in the place")

	// Another life takes over, with and without an end of the first.
	must(t, w.Close())
	refused(inside, "without a daemon")
	next := load(t, bpf.Options{PinDir: w.pins})
	refused(inside, "with a daemon that has set nothing yet")
	must(t, next.SetVigils([]string{place}))
	refused(inside, "with the next daemon")
	must(t, next.SetVigils([]string{beside}))
	direct(inside, "no vigil any more")
	must(t, next.SetVigils(nil))
	if left, err := os.ReadDir(w.pins); err != nil || len(left) > 2 {
		t.Errorf("pins left: %v, %v", left, err)
	}
	must(t, next.SetVigils([]string{place}))
	must(t, next.Remove())
	direct(inside, "removed")
	if _, err := os.Stat(w.pins); !os.IsNotExist(err) {
		t.Errorf("pins left: %v", err)
	}
}
