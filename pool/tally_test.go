package pool_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-proxy/sluice/pool"
)

func TestTallies(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	b.answer(t, b.acquire(t, r), 200, "")
	b.answer(t, b.acquire(t, r), 500, "")
	b.answer(t, b.acquire(t, r), 429, "60") // a
	b.answer(t, b.acquire(t, r), 200, "")   // b
	b.answer(t, b.acquire(t, r), 401, "")
	// A change of the configuration keeps the numbers; one who leaves and comes back begins anew.
	if err := b.SetAuthResetTarget(t.Context(), "p", "x"); err != nil {
		t.Fatal(err)
	}
	want := []pool.Tally{
		{Pool: "p", Member: "a", Failovers: 1, Answers: map[pool.Outcome]uint64{pool.OutcomeOther: 1, pool.OutcomeOK: 1, pool.OutcomeRateLimited: 1, pool.OutcomeAuthFailed: 0, pool.OutcomeBilling: 0}},
		{Pool: "p", Member: "b", Answers: map[pool.Outcome]uint64{pool.OutcomeOther: 0, pool.OutcomeOK: 1, pool.OutcomeRateLimited: 0, pool.OutcomeAuthFailed: 1, pool.OutcomeBilling: 0}},
	}
	if diff := cmp.Diff(want, b.Tallies()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := b.RemoveMember(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	if err := b.AddMember(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	if got := b.Tallies(); got[1].Member != "a" || got[1].Failovers != 0 || got[1].Answers[pool.OutcomeOK] != 0 {
		t.Errorf("%+v", got[1])
	}
}
