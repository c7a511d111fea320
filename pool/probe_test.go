package pool_test

import (
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// A probe that is refused without a word about the end has learnt nothing of it.
func TestARefusedProbeWithoutAHintProlongsNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *pool.Options) { o.ProbeInterval = 15 * time.Minute })
	r := b.pool(t, "a")
	b.answer(t, b.acquire(t, r), 429, "930")
	before := b.status(t).RecoversAt
	b.pass(15 * time.Minute) // half a minute before that
	l := b.acquire(t, r)
	if !l.Probe {
		t.Fatal("no probe")
	}
	b.answer(t, l, 429, "")
	if after := b.status(t).RecoversAt; !after.Equal(before) {
		t.Errorf("it recovers %s later", after.Sub(before))
	}
}

// Between two probes there is the whole interval, however long the first one was waited for.
func TestProbesAreSpacedFromTheirAnswersOn(t *testing.T) {
	t.Parallel()
	for _, hint := range []string{"", "20000"} {
		b := newBench(t, func(o *pool.Options) { o.ProbeInterval = 15 * time.Minute })
		r := b.pool(t, "a")
		b.answer(t, b.acquire(t, r), 429, "20000")
		b.pass(15 * time.Minute)
		l := b.acquire(t, r)
		b.pass(10 * time.Minute)
		b.answer(t, l, 429, hint)
		b.pass(14 * time.Minute)
		b.exhausted(t, r)
		b.pass(time.Minute)
		if l := b.acquire(t, r); !l.Probe {
			t.Errorf("hint %q: no further probe", hint)
		}
	}
}

// When the next probe may be made moves with the clock, too.
func TestProbesFollowTheClock(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *pool.Options) { o.ProbeInterval = 15 * time.Minute })
	r := b.pool(t, "a")
	b.answer(t, b.acquire(t, r), 429, "20000")
	b.pass(-time.Hour)
	if err := b.ClockSet(t.Context(), -time.Hour, []byte("anchor")); err != nil {
		t.Fatal(err)
	}
	b.restart(t)
	b.pass(14 * time.Minute)
	b.exhausted(t, r)
	b.pass(time.Minute)
	if l := b.acquire(t, r); !l.Probe {
		t.Error("no probe")
	}
}
