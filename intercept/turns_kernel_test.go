package intercept

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
)

// slowLedger is one whose kernel takes its time for each namespace, as a busy one does.
type slowLedger struct {
	*ledger
	mu       sync.Mutex
	withdraw int
}

func (l *slowLedger) SetListener(cookie uint64, v bpf.Listener) error {
	time.Sleep(20 * time.Millisecond)
	return l.ledger.SetListener(cookie, v)
}

func (l *slowLedger) DeleteListener(cookie uint64) error {
	time.Sleep(20 * time.Millisecond)
	l.mu.Lock()
	l.withdraw++
	l.mu.Unlock()
	return l.ledger.DeleteListener(cookie)
}

func (l *slowLedger) withdrawn() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.withdraw
}

func newSlowBench(t *testing.T) (*bench, *slowLedger) {
	t.Helper()
	var l *slowLedger
	b := newBench(t, func(b *bench, o *Options) {
		l = &slowLedger{ledger: b.kernel}
		o.Hooks, o.Listeners, o.Flows, o.Events = l, l, l, l
	})
	return b, l
}

// TestEndingNamespacesKeepNobodyWaiting: a program makes network namespaces and ends them as quickly as it likes. An attach does
// not wait until all of them are taken back.
func TestEndingNamespacesKeepNobodyWaiting(t *testing.T) {
	const many = 24
	dir, other := newCgroup(t), newCgroup(t)
	b, l := newSlowBench(t)
	var end []func()
	for range many {
		_, stop := startIn(t, dir, newNetNS(t))
		end = append(end, stop)
	}
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	startIn(t, other, nil)
	for _, stop := range end {
		stop()
	}
	eventually(t, "they are taken back", func() bool { return l.withdrawn() > 0 })
	before := l.withdrawn()
	_, err = b.Attach(t.Context(), Request{Cgroup: other})
	must(t, err)
	if n := l.withdrawn() - before; n > many/3 {
		t.Errorf("%d of %d went first", n, many)
	}
	eventually(t, "all are taken back", func() bool { return l.withdrawn() == many })
}

// TestReportsTakeTurns: nor does another target's new namespace wait for all that it makes.
func TestReportsTakeTurns(t *testing.T) {
	t.Parallel()
	r, noisy, other := newReports(), new(target), new(target)
	for i := range 100 * uint32(maxReports) {
		r.add(noisy, bpf.EventNoListener{PID: i})
	}
	for _, pid := range []uint32{1001, 1002} {
		r.add(other, bpf.EventNoListener{PID: pid})
	}
	var order []uint32
	for e, ok := r.next(); ok; e, ok = r.next() {
		order = append(order, e.PID)
	}
	if want := []uint32{0, 1001, 1, 1002, 2}; !slices.Equal(order[:5], want) || len(order) != maxReports+2 || len(r.of) != 0 {
		t.Errorf("%v, want %v at first, %d in all", order, want, maxReports+2)
	}
}

// TestAnAttachOfManyNamespacesKeepsNobodyWaiting: nor does another attach wait for that of a target with many.
func TestAnAttachOfManyNamespacesKeepsNobodyWaiting(t *testing.T) {
	const many = 24
	dir, other := newCgroup(t), newCgroup(t)
	b, l := newSlowBench(t)
	for range many {
		startIn(t, dir, newNetNS(t))
	}
	startIn(t, other, nil)
	attached := make(chan error, 1)
	go func() {
		_, err := b.Attach(t.Context(), Request{Cgroup: dir})
		attached <- err
	}()
	published := func() int { _, n := l.counts(); return n }
	eventually(t, "the first of them", func() bool { return published() > 0 })
	before := published()
	_, err := b.Attach(t.Context(), Request{Cgroup: other})
	must(t, err)
	if n := published() - before; n > many/3 {
		t.Errorf("%d of %d went first", n, many)
	}
	must(t, <-attached)
	if n := published(); n != many+1 {
		t.Errorf("%d listeners, want %d", n, many+1)
	}
	// Nothing is left of one that fails, either.
	third := newCgroup(t)
	for range 3 {
		startIn(t, third, newNetNS(t))
	}
	if _, err := b.Attach(t.Context(), Request{Cgroup: third, KeepConnections: true, Kind: KindRun, PID: 1 << 30}); err == nil {
		t.Error("attached for a process that is not there")
	}
	eventually(t, "what was made for it is taken back", func() bool { return published() == many+1 })
}

// TestNamespacesThatAreFoundKeepNobodyWaiting: nor does an attach wait until all namespaces have listeners that are found at a time.
func TestNamespacesThatAreFoundKeepNobodyWaiting(t *testing.T) {
	const many = 24
	dir, other := newCgroup(t), newCgroup(t)
	b, l := newSlowBench(t)
	for _, c := range []string{dir, other} {
		startIn(t, c, nil)
	}
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	for range many {
		startIn(t, dir, newNetNS(t))
	}
	b.kernel.events <- bpf.EventNoListener{PID: 1 << 30} // who has ended
	published := func() int { _, n := l.counts(); return n }
	eventually(t, "the first of them", func() bool { return published() > 1 })
	before := published()
	_, err = b.Attach(t.Context(), Request{Cgroup: other})
	must(t, err)
	if n := published() - before; n > many/3 {
		t.Errorf("%d of %d went first", n, many)
	}
	eventually(t, "all of them", func() bool { return published() == many+1 })
}
