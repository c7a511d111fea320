package pool_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// made lets a member's answer hand out a response's id.
func (b *bench) made(t *testing.T, r pool.Route, l pool.Lease, id string) {
	t.Helper()
	c := new(pool.Clues)
	if !b.AnswerClues(r, "/v1/responses", c) {
		t.Fatal("answers of the Responses API are not looked at")
	}
	fmt.Fprintf(c, `{"id":%q}`, id)
	c.End()
	b.Made(l, c.Take())
}

// tie is what a request that names ids is tied by; false if to nobody.
func (b *bench) tie(r pool.Route, ids ...string) (pool.Tie, bool) {
	c := b.RequestClues(r, "/v1/responses")
	if c == nil {
		return pool.Tie{}, false
	}
	for _, id := range ids {
		fmt.Fprintf(c, `{"previous_response_id":%q}`, id)
	}
	c.End()
	return b.Maker(r, c.Take())
}

func (b *bench) tied(t *testing.T, r pool.Route, ids ...string) pool.Tie {
	t.Helper()
	tie, ok := b.tie(r, ids...)
	if !ok {
		t.Fatalf("%v ties to nobody", ids)
	}
	return tie
}

func TestARequestStaysWithTheMemberThatMadeWhatItNames(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	if _, ok := b.tie(r, "resp_1"); ok {
		t.Fatal("tied by what nobody made")
	}
	b.made(t, r, b.acquire(t, r), "resp_1")
	if _, ok := b.tie(r, "resp_9"); ok {
		t.Fatal("tied by what nobody made")
	}
	if err := b.Rotate(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	check := func(id, want string) {
		t.Helper()
		l, err := b.AcquireTied(t.Context(), r, b.tied(t, r, id))
		if err != nil || l.Member != want {
			t.Fatalf("%s: got %q, %v; want %q", id, l.Member, err, want)
		}
	}
	check("resp_1", "a")
	if s := b.status(t); s.Active != "b" || s.Members[0].State != pool.MemberParked {
		t.Fatalf("a tied request moved the pool: %+v", s)
	}
	b.made(t, r, b.acquire(t, r), "resp_2")
	check("resp_2", "b")
	b.restart(t)
	check("resp_1", "a")
	check("resp_2", "b")
	// Of two, the newer counts, whichever is named first.
	for _, ids := range [][]string{{"resp_1", "resp_2"}, {"resp_2", "resp_1"}} {
		if l, err := b.AcquireTied(t.Context(), r, b.tied(t, r, ids...)); err != nil || l.Member != "b" {
			t.Fatalf("%v: %q, %v", ids, l.Member, err)
		}
	}
}

func TestATiedMemberThatIsOutIsNamed(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *pool.Options) { o.ProbeInterval = 15 * time.Minute })
	r := b.pool(t, "a", "b")
	first := b.acquire(t, r)
	b.made(t, r, first, "resp_1")
	b.answer(t, first, 429, "5000")
	tie := b.tied(t, r, "resp_1")
	_, err := b.AcquireTied(t.Context(), r, tie)
	var e *pool.ExhaustedError
	if !errors.As(err, &e) || e.Soonest != "a" || e.Tied != "previous_response_id" || e.RetryAfter != 15*time.Minute {
		t.Fatalf("got %+v, %v", e, err)
	}
	if _, body := e.Body(); !strings.Contains(string(body), `\"a\"`) || !strings.Contains(string(body), "previous_response_id") {
		t.Fatalf("the answer does not say who is out, and why it must be that one: %s", body)
	}
	if n := b.count(t, pool.EventExhausted); n != 0 {
		t.Fatal("a pool with a member left was called exhausted")
	}
	// With b out for longer, a is the soonest, and a probe may be a tied request.
	b.answer(t, b.acquire(t, r), 429, "20000")
	b.pass(15 * time.Minute)
	l, err := b.AcquireTied(t.Context(), r, tie)
	if err != nil || !l.Probe || l.Member != "a" {
		t.Fatalf("got %+v, %v, want a probe of a", l.Member, err)
	}
	if _, err := b.AcquireTied(t.Context(), r, tie); err == nil {
		t.Fatal("a second probe at once")
	}
	b.answer(t, l, 200, "")
	if l, err := b.AcquireTied(t.Context(), r, tie); err != nil || l.Member != "a" {
		t.Fatalf("got %q, %v", l.Member, err)
	}
}

// A probe is of the soonest member, which is no use to a request that another one is meant for.
func TestATiedRequestProbesNobodyElse(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *pool.Options) { o.ProbeInterval = 15 * time.Minute })
	r := b.pool(t, "a", "b")
	first := b.acquire(t, r)
	b.made(t, r, first, "resp_1")
	b.answer(t, first, 429, "20000")
	b.answer(t, b.acquire(t, r), 429, "5000")
	b.pass(15 * time.Minute)
	tie := b.tied(t, r, "resp_1")
	var e *pool.ExhaustedError
	if l, err := b.AcquireTied(t.Context(), r, tie); !errors.As(err, &e) || e.Soonest != "a" {
		t.Fatalf("got a lease of %q, %v", l.Member, err)
	}
	if l := b.acquire(t, r); !l.Probe || l.Member != "b" {
		t.Errorf("got %q, want a probe of b", l.Member)
	}
}

func TestTiesOfAMemberGoWithIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	old := b.acquire(t, r)
	b.made(t, r, old, "resp_1")
	tie := b.tied(t, r, "resp_1")
	if err := b.RemoveMember(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	if l, err := b.AcquireTied(t.Context(), r, tie); err != nil || l.Member != "b" {
		t.Fatalf("got %q, %v", l.Member, err)
	}
	if err := b.AddMember(t.Context(), "p", "a"); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.tie(r, "resp_1"); ok {
		t.Fatal("the member that came back inherits a tie")
	}
	b.made(t, r, old, "resp_1") // an answer to the one that left
	if _, ok := b.tie(r, "resp_1"); ok {
		t.Fatal("tied to a member that has left")
	}
	b.restart(t)
	if _, ok := b.tie(r, "resp_1"); ok {
		t.Fatal("tied to a member that has left, after a restart")
	}
}

func TestTiesAge(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b")
	b.made(t, r, b.acquire(t, r), "resp_1")
	b.pass(pool.TieAge)
	if _, ok := b.tie(r, "resp_1"); ok {
		t.Fatal("tied by what is older than it is remembered")
	}
	b.made(t, r, b.acquire(t, r), "resp_2")
	b.restart(t)
	ties, err := b.db.Ties(t.Context())
	if err != nil || len(ties) != 1 {
		t.Fatalf("%d ties are stored, want the new one: %v", len(ties), err)
	}
}

func TestTiesAreBounded(t *testing.T) {
	t.Parallel()
	const limit = 500
	b := newBench(t, func(o *pool.Options) { o.MaxTies = limit })
	r := b.pool(t, "a", "b")
	l := b.acquire(t, r)
	b.made(t, r, l, "resp_first")
	b.made(t, r, l, "resp_kept")
	clues := make([]pool.Clue, limit-1)
	for i := range clues {
		clues[i].Mark = pool.Mark{byte(i), byte(i >> 8), byte(i >> 16), 1}
	}
	b.Made(l, clues)
	b.restart(t)
	if _, ok := b.tie(r, "resp_first"); ok {
		t.Error("more than the newest are remembered")
	}
	if _, ok := b.tie(r, "resp_kept"); !ok {
		t.Error("less than the newest are remembered")
	}
	if ties, err := b.db.Ties(t.Context()); err != nil || len(ties) != limit {
		t.Errorf("%d ties are stored, %v", len(ties), err)
	}
}

// TestOnePoolsTiesTakeNoOthers: however much the agents of one pool make, those of another find what theirs made.
func TestOnePoolsTiesTakeNoOthers(t *testing.T) {
	t.Parallel()
	const limit = 500
	b := newBench(t, func(o *pool.Options) { o.MaxTies = limit })
	quiet := b.pool(t, "a", "b")
	b.add(t, "c", "d")
	if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "busy", Members: []string{"c", "d"}, Provider: "codex"}); err != nil {
		t.Fatal(err)
	}
	busy, ok := b.Route("chatgpt.com", 443, nil)
	if !ok {
		t.Fatal("the preset's host is not bound")
	}
	b.made(t, quiet, b.acquire(t, quiet), "resp_quiet")
	l := b.acquire(t, busy)
	for i := range 4 * limit {
		b.Made(l, []pool.Clue{{Mark: pool.Mark{byte(i), byte(i >> 8), 1}}})
	}
	for _, id := range []string{"resp_busy", "resp_quiet"} { // again, so that it is dropped and there all the same
		b.made(t, busy, l, id)
	}
	for range 2 {
		if _, ok := b.tie(quiet, "resp_quiet"); !ok {
			t.Error("what a quiet pool made is forgotten because of a busy one")
		}
		if _, ok := b.tie(busy, "resp_busy"); !ok {
			t.Error("the newest of a busy pool is forgotten")
		}
		b.restart(t)
		if ties, err := b.db.Ties(t.Context()); err != nil || len(ties) != limit {
			t.Errorf("%d ties are stored, %v", len(ties), err)
		}
	}
}

func TestOnlyThoseWithAChoiceLookForTies(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	if b.RequestClues(r, "/v1/responses") != nil {
		t.Error("nothing has been made")
	}
	b.made(t, r, b.acquire(t, r), "resp_1")
	if b.RequestClues(r, "/v1/responses") != nil {
		t.Error("there is one member only")
	}
	if b.AnswerClues(r, "/v1/embeddings", new(pool.Clues)) {
		t.Error("embeddings hand out nothing")
	}
	b.add(t, "b")
	if err := b.AddMember(t.Context(), "p", "b"); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.tie(r, "resp_1"); !ok {
		t.Error("what was made before there was a second member ties too")
	}
}
