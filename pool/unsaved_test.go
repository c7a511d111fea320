package pool_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// fullStore refuses changes while it is full.
type fullStore struct {
	pool.Store
	full chan bool // of capacity 1
}

var errFull = errors.New("database or disk is full")

func (s *fullStore) isFull() bool {
	full := <-s.full
	s.full <- full
	return full
}

func (s *fullStore) set(full bool) {
	<-s.full
	s.full <- full
}

func (s *fullStore) Apply(ctx context.Context, c pool.Change) error {
	if s.isFull() {
		return errFull
	}
	return s.Store.Apply(ctx, c)
}

// newFull is a bench on a store that can be full.
func newFull(t *testing.T, change func(*pool.Options)) (*bench, *fullStore) {
	t.Helper()
	var s *fullStore
	b := newBench(t, change)
	b.stop()
	b.wrap = func(store pool.Store) pool.Store {
		s = &fullStore{Store: store, full: make(chan bool, 1)}
		s.full <- false
		return s
	}
	b.start(t)
	return b, s
}

// written waits until nothing is known in memory only.
func (b *bench) written(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); b.Unsaved() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not written though there is room")
		}
	}
}

// TestAFullDiskStopsNobody: with a store that refuses every change, a pool fails over, is
// exhausted and recovers as ever, and all of it is stored once there is room.
func TestAFullDiskStopsNobody(t *testing.T) {
	t.Parallel()
	b, s := newFull(t, func(o *pool.Options) { o.CachedCooldowns = 1 }) // which forgets
	r := b.pool(t, "a", "b")
	s.set(true)
	b.answer(t, b.acquire(t, r), 429, "300")
	if l := b.acquire(t, r); l.Member != "b" || b.status(t).Active != "b" {
		t.Fatalf("did not fail over: %s", l.Member)
	}
	for range 20 {
		if l := b.acquire(t, r); l.Member != "b" {
			t.Fatalf("chose %s, which is cooling", l.Member)
		}
	}
	// An edit is stored or refused; where it is refused nothing is lost of what is known.
	b.answer(t, b.acquire(t, r), 429, "600")
	b.exhausted(t, r)
	if n := b.Unsaved(); n == 0 {
		t.Fatal("nothing waits to be written")
	}
	b.pass(300 * time.Second)
	if _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := b.acquire(t, r); l.Member != "a" {
		t.Fatalf("got %s after the recovery", l.Member)
	}
	if n := b.count(t, pool.EventExhausted); n != 0 {
		t.Fatal("an event is in a store that takes none")
	}
	s.set(false)
	b.written(t)
	for kind, want := range map[pool.EventKind]int{pool.EventFailover: 1, pool.EventExhausted: 1, pool.EventRecovered: 1} {
		if n := b.count(t, kind); n != want {
			t.Errorf("%d %s, want %d", n, kind, want)
		}
	}
	before := b.status(t)
	b.restart(t)
	if after := b.status(t); after.Active != before.Active || after.State != pool.StateDegraded || !after.Members[1].Until.Equal(before.Members[1].Until) {
		t.Errorf("after a restart %+v, before %+v", after, before)
	}
	// What is edited while something waits finds it in the next view.
	s.set(true)
	b.answer(t, b.acquire(t, r), 429, "300") // b is out for as long still: exhausted
	s.set(false)
	b.add(t, "c")
	if err := b.AddMember(t.Context(), "p", "c"); err != nil {
		t.Fatal(err)
	}
	if l := b.acquire(t, r); l.Member != "c" {
		t.Errorf("got %s, want the one that is not cooling", l.Member)
	}
}

// TestAFullDiskRefusesWhatAPersonAsksFor: a rotation or a cooldown that was lifted is there after a restart, or was
// refused.
func TestAFullDiskRefusesWhatAPersonAsksFor(t *testing.T) {
	t.Parallel()
	b, s := newFull(t, nil)
	r := b.pool(t, "a", "b", "c", "d")
	b.answer(t, b.acquire(t, r), 429, "300") // b is active
	s.set(true)
	for _, waits := range []int{0, 1} {
		before := b.status(t)
		if err := b.Rotate(t.Context(), "p"); !errors.Is(err, errFull) {
			t.Errorf("rotate: %v, want that there is no room", err)
		}
		if err := b.Clear(t.Context(), "p", ""); !errors.Is(err, errFull) {
			t.Errorf("clear: %v, want that there is no room", err)
		}
		if after := b.status(t); !reflect.DeepEqual(after, before) {
			t.Fatalf("refused, and yet %+v, before %+v", after, before)
		}
		if n := b.Unsaved(); n != waits {
			t.Errorf("%d changes wait, want %d", n, waits)
		}
		if waits == 0 {
			b.answer(t, b.acquire(t, r, "b", "c"), 429, "600") // of d
		}
	}
	s.set(false)
	if err := errors.Join(b.Rotate(t.Context(), "p"), b.Clear(t.Context(), "p", "a")); err != nil {
		t.Fatal(err)
	}
	b.restart(t)
	var states []pool.MemberState
	for _, m := range b.status(t).Members {
		states = append(states, m.State)
	}
	if want := []pool.MemberState{pool.MemberStandby, pool.MemberParked, pool.MemberActive, pool.MemberCooldown}; !slices.Equal(states, want) {
		t.Errorf("after a restart %v, want %v", states, want)
	}
}

// TestWhatWaitsOfAMemberThatHasLeft: it keeps nothing else from being written.
func TestWhatWaitsOfAMemberThatHasLeft(t *testing.T) {
	t.Parallel()
	b, s := newFull(t, nil)
	r := b.pool(t, "a", "b", "c")
	s.set(true)
	b.answer(t, b.acquire(t, r), 429, "300")
	b.answer(t, b.acquire(t, r), 429, "600")
	s.set(false)
	if err := b.RemoveMember(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	b.written(t)
	if n := b.count(t, pool.EventFailover); n != 2 {
		t.Errorf("%d failovers are stored, want 2", n)
	}
	b.restart(t)
	if st := b.status(t); st.Active != "c" || st.Members[0].State != pool.MemberCooldown {
		t.Errorf("after a restart %+v", st)
	}
}

// TestWhatWaitsFollowsTheClock: in memory, and when it is written.
func TestWhatWaitsFollowsTheClock(t *testing.T) {
	t.Parallel()
	b, s := newFull(t, nil)
	r := b.pool(t, "a", "b")
	s.set(true)
	b.answer(t, b.acquire(t, r), 429, "600")
	b.pass(-time.Hour)
	if err := b.ClockSet(t.Context(), -time.Hour, []byte("anchor")); err != nil {
		t.Fatal(err)
	}
	left := func() time.Duration { return b.status(t).Members[0].Until.Sub(b.clock()) }
	if d := left(); d != 10*time.Minute {
		t.Errorf("out for %s, want 10m", d)
	}
	s.set(false)
	b.written(t)
	b.restart(t)
	if d := left(); d != 10*time.Minute {
		t.Errorf("written, it is out for %s, want 10m", d)
	}
}

// TestWhatWaitsIsBounded: a disk that stays full fills no memory; what is known is gone by all the same, and
// is stored once there is room, though not each event of it.
func TestWhatWaitsIsBounded(t *testing.T) {
	t.Parallel()
	const most = 10_000
	b, s := newFull(t, nil)
	r := b.pool(t, "a", "b")
	l := b.acquire(t, r)
	s.set(true)
	last := most + 100
	for wait := 11; wait <= last; wait++ {
		b.answer(t, l, 429, strconv.Itoa(wait))
	}
	if n := b.Unsaved(); n > most {
		t.Errorf("%d changes wait, want %d at the most", n, most)
	}
	out := func() {
		t.Helper()
		if d := b.status(t).Members[0].Until.Sub(b.clock()); d != time.Duration(last)*time.Second {
			t.Errorf("out for %s, want %ds", d, last)
		}
	}
	out()
	b.answer(t, b.acquire(t, r), 429, strconv.Itoa(last+1)) // b too
	s.set(false)
	b.written(t)
	b.restart(t)
	out()
	if st := b.status(t); st.State != pool.StateExhausted {
		t.Errorf("the pool is %s after a restart, want exhausted", st.State)
	}
	if n := b.count(t, pool.EventExhausted); n != 1 {
		t.Errorf("%d times exhausted in the log, want once", n)
	}
}
