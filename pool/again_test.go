package pool_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// late has a lease's answer, which was good so far, turn out to be a refusal.
func (b *bench) late(t testing.TB, l pool.Lease, wait string) {
	t.Helper()
	h := http.Header{}
	if wait != "" {
		h.Set("Retry-After", wait)
	}
	o, err := b.Observe(t.Context(), l, pool.Answer{Status: 429, Header: h, At: b.clock(), Begun: b.clock()})
	if err != nil || o != pool.OutcomeRateLimited {
		t.Fatal(o, err)
	}
}

// A limit in the midst of an answer puts its member out as one at the beginning does.
func TestALateRefusalCools(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	l := b.acquire(t, r)
	b.answer(t, l, 200, "")
	b.late(t, l, "20")
	if next := b.acquire(t, r); next.Member != "b" || b.count(t, pool.EventFailover) != 1 {
		t.Errorf("the next request got %q", next.Member)
	}
	b.pass(21 * time.Second)
	if s := b.status(t); s.Members[0].State == pool.MemberCooldown {
		t.Errorf("a is still out: %+v", s.Members[0])
	}
}

// A probe's answer that turns out to be a refusal has not ended anything.
func TestAProbeThatIsRefusedLate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		between func(t *testing.T, b *bench, r pool.Route, probe pool.Lease)
		wait    string
		want    time.Duration // that it is out for from then on
	}{
		"what was left":        {nil, "", 85 * time.Minute},
		"a shorter wait":       {nil, "60", 85 * time.Minute},
		"a longer wait":        {nil, "18000", 5 * time.Hour},
		"costless good answer": {func(t *testing.T, b *bench, r pool.Route, _ pool.Lease) { b.costless(t, r) }, "", 85 * time.Minute},
		"another good answer":  {func(t *testing.T, b *bench, r pool.Route, _ pool.Lease) { b.answer(t, b.acquire(t, r), 200, "") }, "30", 30 * time.Second},
		"the clock was set": {func(t *testing.T, b *bench, _ pool.Route, _ pool.Lease) {
			b.pass(-time.Hour)
			if err := b.ClockSet(t.Context(), -time.Hour, []byte("anchor")); err != nil {
				t.Fatal(err)
			}
		}, "", 85 * time.Minute},
		"cleared by hand": {func(t *testing.T, b *bench, _ pool.Route, _ pool.Lease) {
			if err := b.Clear(t.Context(), "p", "a"); err != nil {
				t.Fatal(err)
			}
		}, "30", 30 * time.Second},
	} {
		b := newBench(t, func(o *pool.Options) { o.ProbeInterval = 15 * time.Minute })
		r := b.pool(t, "a")
		b.answer(t, b.acquire(t, r), 429, "6000")
		b.pass(15 * time.Minute)
		probe := b.acquire(t, r)
		if !probe.Probe {
			t.Fatalf("%s: no probe", name)
		}
		b.answer(t, probe, 200, "")
		if s := b.status(t); !s.RecoversAt.IsZero() {
			t.Fatalf("%s: a good answer to a probe did not end the cooldown", name)
		}
		b.pass(time.Second)
		if c.between != nil {
			c.between(t, b, r, probe)
		}
		sent := b.acquire(t, r)
		b.late(t, probe, c.wait)
		s := b.status(t)
		if s.RecoversAt.IsZero() {
			t.Fatalf("%s: nobody is out", name)
		}
		if wait := s.RecoversAt.Sub(b.clock()); (wait - c.want).Abs() > time.Second {
			t.Errorf("%s: out for %s, want %s", name, wait, c.want)
		}
		b.exhausted(t, r)
		b.answer(t, sent, 200, "") // it was sent while the member was not out
		if b.status(t).RecoversAt.IsZero() {
			t.Errorf("%s: a good answer to what was sent before has ended it", name)
		}
		b.restart(t)
		b.exhausted(t, r)
		b.pass(15 * time.Minute)
		if c.want > 15*time.Minute {
			if l := b.acquire(t, r); !l.Probe {
				t.Errorf("%s: no further probe", name)
			}
		}
		if n, m := b.count(t, pool.EventExhausted), b.count(t, pool.EventRecovered); n != 2 || m != 1 {
			t.Errorf("%s: %d times exhausted, %d times recovered", name, n, m)
		}
	}
}

// What its beginning has shown of the credential holds, whatever its end says.
func TestALateRefusalOfAKeyThatWasNotAccepted(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 402} {
		b := newBench(t, func(o *pool.Options) { o.ProbeInterval = time.Minute })
		r := b.pool(t, "a")
		b.answer(t, b.acquire(t, r), status, "")
		b.pass(time.Minute)
		probe := b.acquire(t, r)
		b.answer(t, probe, 200, "")
		b.pass(time.Second)
		b.late(t, probe, "20")
		if m := b.status(t).Members[0]; m.Until.Sub(b.clock()) != 20*time.Second || !strings.HasPrefix(m.Reason, "rate limit") {
			t.Errorf("%d: out for %s: %s", status, m.Until.Sub(b.clock()), m.Reason)
		}
	}
}

// Refusals without a hint double also where each of them came behind the beginning of an answer.
func TestLateRefusalsWithoutAHintDouble(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		l := b.acquire(t, r)
		b.pass(time.Second)
		b.answer(t, l, 200, "")
		b.pass(time.Second)
		b.late(t, l, "")
		if wait := b.status(t).RecoversAt.Sub(b.clock()); wait != want {
			t.Errorf("out for %s, want %s", wait, want)
		}
		b.pass(want + time.Second)
	}
}

// costless has a good answer to a request that costs nothing.
func (b *bench) costless(t *testing.T, r pool.Route) {
	t.Helper()
	if _, err := b.Observe(t.Context(), b.acquire(t, r), pool.Answer{Status: 200, Costless: true}); err != nil {
		t.Fatal(err)
	}
}
