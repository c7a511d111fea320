package pool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// TestEditsAndRotationsKeepTheirWord: what a rotation did must outlive an edit it
// had to wait for, in memory as in the store.
func TestEditsAndRotationsKeepTheirWord(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.pool(t, "a", "b")
	b.add(t, "free")
	for i := range 40 {
		var wg sync.WaitGroup
		wg.Go(func() {
			edit := b.AddMember
			if i%2 == 1 {
				edit = b.RemoveMember
			}
			if err := edit(t.Context(), "p", "free"); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := b.Rotate(t.Context(), "p"); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		fresh, err := pool.NewKeeper(t.Context(), b.opts)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := fresh.PoolStatus(t.Context(), "p")
		fresh.Close()
		if err != nil {
			t.Fatal(err)
		}
		if memory := b.status(t); fmt.Sprint(memory) != fmt.Sprint(stored) {
			t.Fatalf("round %d: in memory\n%+v\nin the store\n%+v", i, memory, stored)
		}
	}
}

// TestAGoodAnswerDoesNotEndANewerCooldown: many good answers to a probe race with
// a refusal of a request that was sent later.
func TestAGoodAnswerDoesNotEndANewerCooldown(t *testing.T) {
	t.Parallel()
	for range 10 {
		b := newBench(t, nil)
		r := b.pool(t, "a")
		b.answer(t, b.acquire(t, r), 429, "10")
		b.pass(11 * time.Second)
		good := make([]pool.Lease, 8)
		for i := range good {
			good[i] = b.acquire(t, r)
		}
		b.pass(time.Second)
		bad := b.acquire(t, r)
		var wg sync.WaitGroup
		wg.Go(func() { b.answer(t, bad, 429, "500") })
		for _, l := range good {
			wg.Go(func() { b.answer(t, l, 200, "") })
		}
		wg.Wait()
		if s := b.status(t); s.Members[0].State != pool.MemberCooldown {
			t.Fatalf("a good answer sent before the cooldown began ended it: %+v", s.Members[0])
		}
	}
}

// TestAHangUpDoesNotUnlearnARefusal: the answer is known, whoever is still there to hear it.
func TestAHangUpDoesNotUnlearnARefusal(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	l := b.acquire(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Observe(ctx, l, pool.Answer{Status: 429, Header: http.Header{"Retry-After": {"60"}}}); err != nil {
		t.Fatal(err)
	}
	if got := b.acquire(t, r).Member; got != "b" {
		t.Fatalf("next request gets %s, want b", got)
	}
}

// TestAReplacedKeyJudgesNobody: the answer to a request that was under way when its key was replaced says nothing of the
// key that there is now, with which the request is worth another try.
func TestAReplacedKeyJudgesNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	l := b.acquire(t, r)
	if _, ok := b.Refresh(t.Context(), r, l); ok {
		t.Fatal("a static key was refreshed")
	}
	secret := vault.NewSecret([]byte("sk-other"))
	if _, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{Secret: &secret}); err != nil {
		t.Fatal(err)
	}
	b.answer(t, l, 401, "")
	again, ok := b.Refresh(t.Context(), r, l)
	if s := b.status(t); s.Active != "a" || !ok || again.Member != "a" || string(again.Inject[0].Value) != "Bearer sk-other" {
		t.Fatalf("%t, %+v", ok, s)
	}
	b.answer(t, again, 401, "")
	if s := b.status(t); s.Active != "b" {
		t.Fatalf("the other key is not accepted either: %+v", s)
	}
}

func TestOutOfCreditHasNoKnownEnd(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}`,
		`{"errors":[{"code":"insufficient_quota"}]}`,
	} {
		b := newBench(t, nil)
		r := b.pool(t, "a", "b")
		o, err := b.Observe(t.Context(), b.acquire(t, r), pool.Answer{
			Status: 429, Header: http.Header{"X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Reset-Requests": {"1s"}},
			Body: []byte(body),
		})
		if err != nil || o != pool.OutcomeBilling {
			t.Fatalf("%s: got %s, %v", body, o, err)
		}
		if d := b.status(t).Members[0].Until.Sub(b.clock()); d != time.Hour {
			t.Fatalf("%s: cools %s, want an hour", body, d)
		}
	}
}

// TestWhatIsAskedAsideUndoesNoRotation: refused to every other member, it is not asked with the one that a person has
// rotated away from, which would be active again.
func TestWhatIsAskedAsideUndoesNoRotation(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	if err := b.Rotate(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	before := b.status(t)
	aside := r
	aside.Costless, aside.Aside = true, true
	if l := b.acquire(t, aside, "b"); l.Member != "c" {
		t.Fatalf("after b it was the turn of %s", l.Member)
	}
	if l, err := b.Acquire(t.Context(), aside, []string{"b", "c"}); err == nil {
		t.Fatalf("after b and c it was the turn of %s", l.Member)
	}
	if after := b.status(t); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatalf("%+v\nbefore:\n%+v", after, before)
	}
	if l := b.acquire(t, r, "b", "c"); l.Member != "a" {
		t.Fatalf("a call went to %s", l.Member)
	}
}

// TestACostlessAnswerDoesNotEndADoubling: between two refusals that say nothing of their end an agent lists models and reports
// of itself, all of which is answered well.
func TestACostlessAnswerDoesNotEndADoubling(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	for i, c := range []struct {
		between pool.Answer
		want    time.Duration
	}{
		{pool.Answer{Status: 500}, time.Minute},
		{pool.Answer{Status: 200, Costless: true}, 2 * time.Minute},
		{pool.Answer{Status: 101, Costless: true}, 4 * time.Minute},
		{pool.Answer{Status: 200}, time.Minute},
	} {
		if _, err := b.Observe(t.Context(), b.acquire(t, r), c.between); err != nil {
			t.Fatal(err)
		}
		b.answer(t, b.acquire(t, r), 429, "")
		if d := b.status(t).Members[0].Until.Sub(b.clock()); d != c.want {
			t.Fatalf("refusal %d cools %s, want %s", i+1, d, c.want)
		}
		b.pass(c.want + time.Second)
	}
}

func TestAnUpgradeIsAGoodAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	b.answer(t, b.acquire(t, r), 429, "")
	b.pass(time.Minute)
	if o := b.answer(t, b.acquire(t, r), http.StatusSwitchingProtocols, ""); o != pool.OutcomeOK {
		t.Fatalf("101 is %s", o)
	}
}

// TestOneCredentialGoesOut: an account's own field never comes beside the credential's.
func TestOneCredentialGoesOut(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	if _, err := b.AddCredential(t.Context(), pool.CredentialSpec{
		Name: "a", Secret: vault.NewSecret([]byte("sk-a")),
		ExtraHeaders: []pool.ExtraHeader{{Name: "Authorization", Value: vault.NewSecret([]byte("Basic other"))}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"a"}, Provider: "openai"}); err != nil {
		t.Fatal(err)
	}
	r, _ := b.Route("api.openai.com", 443, nil)
	if l := b.acquire(t, r); len(l.Inject) != 1 || string(l.Inject[0].Value) != "Bearer sk-a" {
		t.Fatalf("%d fields go out", len(l.Inject))
	}
}

func TestALeaseCannotBePrinted(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	l := b.acquire(t, b.pool(t, "canary"))
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "lease", l, "field", l.Inject[0])
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "lease", l, "field", l.Inject[0])
	encoded, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, l)
		fmt.Fprintf(&out, verb, l.Inject[0])
	}
	for _, form := range []string{"sk-canary", "736b2d63616e617279", "115 107 45", "c2stY2FuYXJ5", "0x73, 0x6b"} {
		if strings.Contains(out.String(), form) {
			t.Fatalf("printed as %s: %s", form, out.String())
		}
	}
}

// TestManyAnswersThatSayTheSame: a key that is not accepted is out from the first answer on, whoever else hears it later.
func TestManyAnswersThatSayTheSame(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	first, second := b.acquire(t, r), b.acquire(t, r)
	b.answer(t, first, 401, "")
	until := b.status(t).Members[0].Until
	b.pass(time.Minute)
	b.answer(t, second, 401, "")
	if s := b.status(t); !s.Members[0].Until.Equal(until) {
		t.Errorf("out for another %s", s.Members[0].Until.Sub(until))
	}
}

// TestAPoolThatIsLeftExhaustedIsSaidToBe: nobody was refused when the last member that could serve was taken out.
func TestAPoolThatIsLeftExhaustedIsSaidToBe(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	b.answer(t, b.acquire(t, r), 429, "600")
	b.answer(t, b.acquire(t, r), 429, "300")
	if err := b.RemoveMember(t.Context(), "p", "c"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if e := b.exhausted(t, r); e.Soonest != "b" || e.Members != 2 {
			t.Errorf("%+v", e)
		}
	}
	b.pass(300 * time.Second)
	if _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, back := b.count(t, pool.EventExhausted), b.count(t, pool.EventRecovered); out != 1 || back != 1 {
		t.Errorf("%d times exhausted, %d recovered", out, back)
	}
}

// TestANewKeyEndsAnExhaustion: at once, and people are told.
func TestANewKeyEndsAnExhaustion(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	b.answer(t, b.acquire(t, r), 401, "")
	b.exhausted(t, r)
	secret := vault.NewSecret([]byte("sk-other"))
	if _, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{Secret: &secret}); err != nil {
		t.Fatal(err)
	}
	if n := b.count(t, pool.EventRecovered); n != 1 {
		t.Errorf("%d times recovered", n)
	}
	b.acquire(t, r)
}
