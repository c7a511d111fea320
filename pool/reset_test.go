package pool_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// TestResetIsRequestedOnce walks through what is remembered of a reset, with the keeper
// made anew in between.
func TestResetIsRequestedOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.pool(t, "a")
	ctx := t.Context()
	request := func(onlyTold, want bool) {
		t.Helper()
		if got, err := b.RequestReset(ctx, "p", 7, onlyTold); err != nil || got != want {
			t.Fatalf("requested %t, %v; want %t", got, err, want)
		}
	}
	due := func(want ...pool.DueReset) pool.DueReset {
		t.Helper()
		got, err := b.DueResets(ctx)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("due: %+v, %v; want %+v", got, err, want)
		}
		if len(got) == 0 {
			return pool.DueReset{}
		}
		return got[0]
	}
	request(true, false) // nobody was told
	due()
	b.Told("p")
	b.restart(t)
	request(true, true)
	request(true, false)  // one is due
	request(false, false) // whoever asks
	r := due(pool.DueReset{ID: 1, Pool: "p", Seq: 7})
	if err := b.BeginReset(ctx, r); err != nil {
		t.Fatal(err)
	}
	b.restart(t)
	r = due(pool.DueReset{ID: 1, Pool: "p", Seq: 7, Starts: 1})
	if err := b.EndReset(ctx, r, false, []pool.Event{{Kind: pool.EventAuthResetFail, Pool: "p"}}); err != nil {
		t.Fatal(err)
	}
	due()
	b.restart(t)
	request(true, true) // who was not reset is still told
	if err := b.EndReset(ctx, due(pool.DueReset{ID: 1, Pool: "p", Seq: 7}), true, []pool.Event{{Kind: pool.EventAuthReset, Pool: "p"}}); err != nil {
		t.Fatal(err)
	}
	request(true, false)
	b.restart(t)
	request(true, false) // what was told before the reset counts no more
	request(false, true) // a person may
	if err := b.RemovePool(ctx, "p"); err != nil {
		t.Fatal(err)
	}
	due()
	if err := b.BeginReset(ctx, r); err == nil {
		t.Error("began a reset whose pool is gone")
	}
	if _, err := b.RequestReset(ctx, "p", 1, false); err == nil {
		t.Error("requested a reset of no pool")
	}
	b.Told("p") // nothing to note
	events, err := b.EventsAfter(ctx, 0, 10)
	if err != nil || len(events) != 2 || events[0].Kind != pool.EventAuthResetFail || events[1].Kind != pool.EventAuthReset {
		t.Errorf("%+v, %v", events, err)
	}
}

// TestToldWhileItIsReset keeps what an agent is told while a reset is under way: that
// one may have come too late for it.
func TestToldWhileItIsReset(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.pool(t, "a")
	for _, step := range []func() error{
		func() error { b.Told("p"); return nil },
		func() error { _, err := b.RequestReset(t.Context(), "p", 1, true); return err },
		func() error { b.Told("p"); return nil },
		func() error { return b.EndReset(t.Context(), pool.DueReset{ID: 1, Pool: "p"}, true, nil) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := b.RequestReset(t.Context(), "p", 2, true); err != nil || !again {
		t.Errorf("%t, %v", again, err)
	}
}

func TestToldCostsOneWriteAnExhaustion(t *testing.T) {
	b := newBench(t, nil)
	b.pool(t, "a")
	b.Told("p")
	began := time.Now()
	if n := testing.AllocsPerRun(1000, func() { b.Told("p") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("1000 times took %s: does it write each time?", took)
	}
}

// TestAgentIsValidated holds every way to say how an agent is reset to one rule.
func TestAgentIsValidated(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.pool(t, "a")
	b.add(t, "b")
	for name, good := range map[string]bool{
		"openai-codex": true, "a.b_c-9": true, strings.Repeat("x", 64): true,
		strings.Repeat("x", 65): false, "-x": false, "a b": false, "a;b": false, "a/b": false, "a\x00": false, "é": false, "$(id)": false, "--help": false,
	} {
		if err := b.SetAuthResetTarget(t.Context(), "p", name); (err == nil) != good {
			t.Errorf("set-auth-reset %q: %v", name, err)
		}
		for field, p := range map[string]pool.Pool{"auth_reset_target": {AuthResetTarget: name}, "agent_profile": {AgentProfile: name}} {
			p.Name, p.Provider, p.Members = "q", "anthropic", []string{"b"}
			_, err := b.CreatePool(t.Context(), p)
			if (err == nil) != good || !good && !strings.HasPrefix(err.Error(), field+":") {
				t.Errorf("create with %s %q: %v", field, name, err)
			}
			_ = b.RemovePool(t.Context(), "q")
		}
	}
	for ref, good := range map[string]bool{
		"": true, "agent-1": true, "k8s.io/pod:agent": true, "-v": false, "a b": false, "a\nb": false, strings.Repeat("x", 254): false,
	} {
		_, err := b.CreatePool(t.Context(), pool.Pool{Name: "q", Provider: "anthropic", Members: []string{"b"}, Container: ref})
		if (err == nil) != good {
			t.Errorf("container %q: %v", ref, err)
		}
		_ = b.RemovePool(t.Context(), "q")
	}
}
