package pool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// bench is a keeper on a real store with a clock that is turned by hand.
type bench struct {
	*pool.Keeper
	dir  string
	db   *store.DB
	opts pool.Options
	wrap func(pool.Store) pool.Store // nil: the store as it is
	lock func(pool.Vault) pool.Vault // nil: the vault as it is

	mu  sync.Mutex
	now time.Time
}

func newBench(t testing.TB, change func(*pool.Options)) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), now: time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)}
	b.opts = pool.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: b.clock, ProbeInterval: -1}
	if change != nil {
		change(&b.opts)
	}
	b.start(t)
	t.Cleanup(b.stop)
	return b
}

func (b *bench) start(t testing.TB) {
	t.Helper()
	var err error
	b.Keeper = nil
	if b.db, err = store.Open(context.Background(), b.dir); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(vault.Options{File: filepath.Join(b.dir, "identity")})
	if err != nil {
		t.Fatal(err)
	}
	b.opts.Store, b.opts.Vault = b.db, v
	if b.wrap != nil {
		b.opts.Store = b.wrap(b.db)
	}
	if b.lock != nil {
		b.opts.Vault = b.lock(v)
	}
	if b.Keeper, err = pool.NewKeeper(context.Background(), b.opts); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) stop() {
	if b.Keeper == nil { // it could not be started
		return
	}
	b.Close()
	_ = b.db.Close()
}

func (b *bench) restart(t testing.TB) {
	t.Helper()
	b.stop()
	b.start(t)
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

func (b *bench) add(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := b.AddCredential(t.Context(), pool.CredentialSpec{Name: n, Secret: vault.NewSecret([]byte("sk-" + n))}); err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bench) pool(t testing.TB, members ...string) pool.Route {
	t.Helper()
	b.add(t, members...)
	if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: members, Provider: "openai"}); err != nil {
		t.Fatal(err)
	}
	r, ok := b.Route("api.openai.com", 443, nil)
	if !ok {
		t.Fatal("the preset's host is not bound")
	}
	return r
}

func (b *bench) acquire(t testing.TB, r pool.Route, tried ...string) pool.Lease {
	t.Helper()
	l, err := b.Acquire(t.Context(), r, tried)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (b *bench) exhausted(t testing.TB, r pool.Route) *pool.ExhaustedError {
	t.Helper()
	l, err := b.Acquire(t.Context(), r, nil)
	var e *pool.ExhaustedError
	if !errors.As(err, &e) {
		t.Fatalf("got lease of %q and %v, want ExhaustedError", l.Member, err)
	}
	return e
}

func (b *bench) answer(t testing.TB, l pool.Lease, status int, wait string) pool.Outcome {
	t.Helper()
	h := http.Header{}
	if wait != "" {
		h.Set("Retry-After", wait)
	}
	o, err := b.Observe(t.Context(), l, pool.Answer{Status: status, Header: h, At: b.clock()})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (b *bench) count(t testing.TB, kind pool.EventKind) int {
	t.Helper()
	events, err := b.LastEvents(t.Context(), 10000)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func (b *bench) status(t testing.TB) pool.PoolStatus {
	t.Helper()
	s, err := b.PoolStatus(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFailoverIsStickyAndForward(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	if o := b.answer(t, b.acquire(t, r), 429, "20"); o != pool.OutcomeRateLimited {
		t.Fatalf("outcome %s", o)
	}
	if l := b.acquire(t, r); l.Member != "b" {
		t.Fatalf("after a comes %s", l.Member)
	}
	b.pass(21 * time.Second)
	if l := b.acquire(t, r); l.Member != "b" {
		t.Fatalf("snapped back to %s", l.Member)
	}
	b.answer(t, b.acquire(t, r), 429, "20")
	b.answer(t, b.acquire(t, r), 429, "20")
	if l := b.acquire(t, r); l.Member != "a" {
		t.Fatalf("after c comes %s, want a", l.Member)
	}
	if n := b.count(t, pool.EventFailover); n != 3 {
		t.Fatalf("%d failovers, want 3", n)
	}
}

func TestNothingSnapsBackAfterAnExhaustion(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	b.answer(t, b.acquire(t, r), 429, "100")
	b.answer(t, b.acquire(t, r), 429, "200")
	b.pass(101 * time.Second)
	if l := b.acquire(t, r); l.Member != "a" {
		t.Fatalf("got %s, want a, which is back", l.Member)
	}
	b.pass(100 * time.Second)
	if l := b.acquire(t, r); l.Member != "a" {
		t.Fatalf("snapped back to %s", l.Member)
	}
}

func TestExhaustedAndRecoveredAreAnnouncedOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	first := b.acquire(t, r)
	b.answer(t, first, 429, "7200")
	b.answer(t, b.acquire(t, r), 429, "90")
	for range 3 {
		e := b.exhausted(t, r)
		if e.Soonest != "b" || e.RetryAfter != 90*time.Second || e.Members != 2 {
			t.Fatalf("got %+v", e)
		}
		b.answer(t, first, 429, "7200") // a straggler
		b.restart(t)
		if _, err := b.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s := b.status(t); s.State != pool.StateExhausted || s.Active != "" || !s.RecoversAt.Equal(b.clock().Add(90*time.Second)) {
		t.Fatalf("status %+v", s)
	}
	if n := b.count(t, pool.EventExhausted); n != 1 {
		t.Fatalf("%d exhausted events", n)
	}
	b.pass(90 * time.Second)
	for range 3 {
		if _, err := b.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.restart(t)
	}
	if n := b.count(t, pool.EventRecovered); n != 1 {
		t.Fatalf("%d recovered events", n)
	}
	if s := b.status(t); s.State != pool.StateDegraded || s.Active != "b" {
		t.Fatalf("status %+v", s)
	}
	if l := b.acquire(t, r); l.Member != "b" {
		t.Fatalf("serves %s", l.Member)
	}
}

func TestWaitingWakesWhoWaitsForARecovery(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	waiting := b.Waiting()
	b.answer(t, b.acquire(t, r), 429, "3600")
	<-waiting
	next, err := b.Recover(t.Context())
	if err != nil || !next.Equal(b.clock().Add(time.Hour)) {
		t.Fatalf("recovers at %s, %v", next, err)
	}
	waiting = b.Waiting()
	if err := b.Clear(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	<-waiting
	if next, err = b.Recover(t.Context()); err != nil || !next.IsZero() {
		t.Fatalf("recovers at %s, %v", next, err)
	}
	if n := b.count(t, pool.EventRecovered); n != 1 {
		t.Fatalf("%d recovered events", n)
	}
}

// Who takes the last member that is not out from a pool leaves it exhausted, as an answer would: it is said, and so is
// that it is back, which agents that were refused meanwhile are reset by.
func TestTheLastHealthyMemberIsRemoved(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	b.answer(t, b.acquire(t, r), 429, "3600")
	for i, name := range []string{"b", "c"} {
		if err := b.RemoveMember(t.Context(), "p", name); err != nil {
			t.Fatal(err)
		}
		if n := b.count(t, pool.EventExhausted); n != i {
			t.Fatalf("%d exhausted events without %s", n, name)
		}
	}
	b.exhausted(t, r)
	events, err := b.LastEvents(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if e := events[0]; e.Kind != pool.EventExhausted || e.Member != "a" || e.Members != 1 || !e.Until.Equal(b.clock().Add(time.Hour)) || !strings.HasPrefix(e.Reason, "rate limit (429)") {
		t.Errorf("%+v", e)
	}
	b.restart(t)
	b.pass(time.Hour)
	for range 2 {
		if _, err := b.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if out, back := b.count(t, pool.EventExhausted), b.count(t, pool.EventRecovered); out != 1 || back != 1 {
		t.Errorf("exhausted %d times, recovered %d times", out, back)
	}
}

// TestACooldownLastsWhateverTheClockIsSetTo sets the wall clock forward and back by
// an hour in the middle of a cooldown, with and without a restart.
func TestACooldownLastsWhateverTheClockIsSetTo(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s restart=%t", by, restart), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, nil)
				r := b.pool(t, "a")
				b.answer(t, b.acquire(t, r), 429, "600")
				b.exhausted(t, r)
				b.pass(5*time.Minute + by) // five minutes, and the clock was set
				if restart {
					b.restart(t)
				}
				if err := b.ClockSet(t.Context(), by, []byte("anchor")); err != nil {
					t.Fatal(err)
				}
				if anchor, err := b.ClockAnchor(t.Context()); err != nil || string(anchor) != "anchor" {
					t.Fatalf("anchor %q, %v", anchor, err)
				}
				next, err := b.Recover(t.Context())
				if err != nil || !next.Equal(b.clock().Add(5*time.Minute)) {
					t.Fatalf("recovers in %s, %v; want 5m", next.Sub(b.clock()), err)
				}
				b.exhausted(t, r)
				b.pass(5 * time.Minute)
				if next, err = b.Recover(t.Context()); err != nil || !next.IsZero() {
					t.Fatalf("recovers at %s, %v", next, err)
				}
				b.acquire(t, r)
				events, err := b.LastEvents(t.Context(), 10)
				if err != nil || len(events) != 2 || events[1].Kind != pool.EventRecovered {
					t.Fatalf("%+v, %v", events, err)
				}
				if out := events[1].Time.Sub(events[1].Since); out != 10*time.Minute {
					t.Fatalf("was exhausted for %s, want 10m", out)
				}
			})
		}
	}
}

func TestLongWaitsAreNotStatedInFull(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	b.answer(t, b.acquire(t, r), 429, "7200")
	if e := b.exhausted(t, r); e.RetryAfter != pool.DefaultMaxStatedRetry {
		t.Fatalf("told to wait %s", e.RetryAfter)
	}
	b.pass(7200*time.Second - 100*time.Millisecond)
	if e := b.exhausted(t, r); e.RetryAfter != time.Second {
		t.Fatalf("told to wait %s", e.RetryAfter)
	}
}

func TestOneFailoverForManyRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	leases := make([]pool.Lease, 50)
	for i := range leases {
		leases[i] = b.acquire(t, r)
	}
	var wg sync.WaitGroup
	for _, l := range leases {
		wg.Go(func() {
			_, err := b.Observe(t.Context(), l, pool.Answer{Status: 429})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := b.count(t, pool.EventFailover); n != 1 {
		t.Fatalf("%d failovers, want 1", n)
	}
	s := b.status(t)
	if s.Active != "b" || s.Members[0].State != pool.MemberCooldown || s.Members[2].State != pool.MemberStandby {
		t.Fatalf("status %+v", s)
	}
	if d := s.Members[0].Until.Sub(b.clock()); d != time.Minute {
		t.Fatalf("50 answers at once doubled the cooldown to %s", d)
	}
}

func TestUnhintedRefusalsDouble(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		b.answer(t, b.acquire(t, r), 429, "")
		d := b.status(t).Members[0].Until.Sub(b.clock())
		if d != want*time.Minute {
			t.Fatalf("cools %s, want %s", d, want*time.Minute)
		}
		b.pass(d)
	}
	b.answer(t, b.acquire(t, r), 200, "")
	b.answer(t, b.acquire(t, r), 429, "")
	if d := b.status(t).Members[0].Until.Sub(b.clock()); d != time.Minute {
		t.Fatalf("after a good answer cools %s, want a minute", d)
	}
}

func TestCooldownOnlyExtends(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	l := b.acquire(t, r)
	late := b.acquire(t, r)
	b.answer(t, l, 429, "600")
	b.answer(t, late, 429, "30")
	if d := b.status(t).Members[0].Until.Sub(b.clock()); d != 600*time.Second {
		t.Fatalf("shortened to %s", d)
	}
	b.answer(t, late, 200, "") // sent before the cooldown began
	if s := b.status(t); s.Members[0].State != pool.MemberCooldown {
		t.Fatalf("an old answer ended it: %+v", s.Members[0])
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *pool.Options) { o.ProbeInterval = 15 * time.Minute })
	r := b.pool(t, "a", "b")
	b.answer(t, b.acquire(t, r), 429, "20000")
	b.answer(t, b.acquire(t, r), 429, "10000")
	b.exhausted(t, r)
	b.pass(15 * time.Minute)
	costless := r
	costless.Costless = true
	b.exhausted(t, costless) // its good answer would not say that anybody is back
	l := b.acquire(t, r)
	if !l.Probe || l.Member != "b" {
		t.Fatalf("got %+v, want a probe of b", l.Member)
	}
	b.exhausted(t, r) // one at a time
	before := b.status(t).RecoversAt
	b.answer(t, l, 429, "")
	if after := b.status(t).RecoversAt; !after.Equal(before) {
		t.Fatalf("a refused probe moved the end from %s to %s", before, after)
	}
	b.pass(15 * time.Minute)
	b.answer(t, b.acquire(t, r), 200, "")
	if l := b.acquire(t, r); l.Member != "b" || l.Probe {
		t.Fatalf("got %s, want b for good", l.Member)
	}
	if n := b.count(t, pool.EventRecovered); n != 1 {
		t.Fatalf("%d recovered events", n)
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	for _, want := range []string{"b", "c", "a", "b"} {
		if err := b.Rotate(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		if got := b.acquire(t, r).Member; got != want || b.status(t).Active != want {
			t.Fatalf("rotated to %s, status %s, want %s", got, b.status(t).Active, want)
		}
	}
	b.answer(t, b.acquire(t, r), 429, "1000")
	b.answer(t, b.acquire(t, r), 429, "1000")
	if got := b.acquire(t, r).Member; got != "a" {
		t.Fatalf("a parked member is better than none, got %s", got)
	}
	err := b.Rotate(t.Context(), "p")
	var e *pool.Error
	if !errors.As(err, &e) || e.Code != pool.CodeConflict {
		t.Fatalf("got %v, want a conflict that says why", err)
	}
}

func TestMembershipInheritsNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	old := b.acquire(t, r)
	b.answer(t, old, 429, "5000")
	if err := b.RemoveMember(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	if err := b.AddMember(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	b.answer(t, old, 429, "5000") // judged a member that has left
	s := b.status(t)
	if s.State != pool.StateHealthy || s.Members[1].Name != "a" || s.Members[1].State != pool.MemberStandby {
		t.Fatalf("status %+v", s)
	}
	b.answer(t, b.acquire(t, r), 429, "5000")
	if err := b.RemoveMember(t.Context(), "p", "b"); err != nil {
		t.Fatal(err)
	}
	b.answer(t, b.acquire(t, r), 429, "5000")
	if err := b.RemovePool(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Acquire(t.Context(), r, nil); !errors.Is(err, pool.ErrNoPool) {
		t.Fatalf("got %v", err)
	}
	if n := b.count(t, pool.EventRecovered); n != 0 {
		t.Fatalf("removing a pool recovered it %d times", n)
	}
}

func TestACacheThatForgetsChoosesNoCooledMember(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *pool.Options) { o.CachedCooldowns = 2 })
	names := make([]string, 40)
	for i := range names {
		names[i] = fmt.Sprintf("m%02d", i)
	}
	r := b.pool(t, names...)
	for i := range len(names) - 1 {
		l := b.acquire(t, r)
		if l.Member != names[i] {
			t.Fatalf("request %d got %s", i, l.Member)
		}
		b.answer(t, l, 429, "3600")
	}
	for range 200 {
		if l := b.acquire(t, r); l.Member != names[39] {
			t.Fatalf("chose %s, which is cooling", l.Member)
		}
	}
	// The active member itself is out and forgotten: now a miss must not mean healthy.
	b.answer(t, b.acquire(t, r), 429, "3600")
	for range 50 {
		b.exhausted(t, r)
	}
	b.restart(t) // nothing is cached
	b.exhausted(t, r)
}

func TestEverythingElseIsNoEvidence(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	for _, status := range []int{400, 403, 404, 408, 413, 422, 500, 502, 503, 529} {
		if o := b.answer(t, b.acquire(t, r), status, ""); o != pool.OutcomeOther {
			t.Errorf("%d is %s", status, o)
		}
	}
	if s := b.status(t); s.State != pool.StateHealthy || s.Active != "a" {
		t.Fatalf("status %+v", s)
	}
	if o := b.answer(t, b.acquire(t, r), 401, ""); o != pool.OutcomeAuthFailed {
		t.Fatalf("401 is %s", o)
	}
	if d := b.status(t).Members[0].Until.Sub(b.clock()); d != 5*time.Minute {
		t.Fatalf("401 cools %s", d)
	}
	if o := b.answer(t, b.acquire(t, r), 402, ""); o != pool.OutcomeBilling {
		t.Fatalf("402 is %s", o)
	}
	if d := b.status(t).Members[1].Until.Sub(b.clock()); d != time.Hour {
		t.Fatalf("402 cools %s", d)
	}
}

func BenchmarkAcquireObserve(b *testing.B) {
	k := newBench(b, nil)
	r := k.pool(b, "a", "b")
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		l, err := k.Acquire(ctx, r, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := k.Observe(ctx, l, pool.Answer{Status: 200}); err != nil {
			b.Fatal(err)
		}
	}
}
