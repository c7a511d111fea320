package monitor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// upstream is the model: what the members were told, and the notices that follow
// from it, worked out without looking at the pool's state.
type upstream struct {
	until     map[string]time.Time
	order     []string
	exhausted bool
	refusals  int
	want      []pool.EventKind
}

// refuse tells a member how long it is out.
func (u *upstream) refuse(member string, wait time.Duration, now time.Time, active string) {
	u.refusals++
	u.until[member] = maxTime(u.until[member], now.Add(wait))
	if u.soonest().After(now) {
		u.exhausted = true
		u.want = append(u.want, pool.EventExhausted)
		return
	}
	if member == active {
		u.want = append(u.want, pool.EventFailover)
	}
}

func (u *upstream) soonest() time.Time {
	first := u.until[u.order[0]]
	for _, m := range u.order {
		if u.until[m].Before(first) {
			first = u.until[m]
		}
	}
	return first
}

// pass is to be called whenever time may have passed.
func (u *upstream) pass(now time.Time) {
	if u.exhausted && !u.soonest().After(now) {
		u.exhausted = false
		u.want = append(u.want, pool.EventRecovered)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestSoak lets two members be refused at random for ten hours, with requests at
// random times and restarts in every state, and counts the notices exactly.
func TestSoak(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { soak(t, dir, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func soak(t *testing.T, dir string, random *rand.Rand) {
	w := open(t, dir)
	u := &upstream{until: make(map[string]time.Time), order: []string{"a", "b"}}
	for _, name := range u.order {
		if _, err := w.AddCredential(t.Context(), pool.CredentialSpec{Name: name, Secret: vault.NewSecret([]byte("sk-" + name))}); err != nil {
			t.Fatal(err)
		}
	}
	p := pool.Pool{Name: "p", Members: u.order, Bindings: []pool.Binding{{Host: "api.example", Port: 443, Header: "X-Key: {token}"}}}
	if _, err := w.CreatePool(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	chat := &inbox{name: "chat"}
	stop := w.watch(t, chat)
	begin := time.Now()
	served := 0
	for time.Since(begin) < 10*time.Hour {
		time.Sleep(time.Duration(random.Int64N(int64(30 * time.Second))))
		settle(u)
		chat.set(random.IntN(4) == 0) // down a quarter of the time
		if random.IntN(20) == 0 {
			stop()
			w.close(t)
			w = open(t, dir)
			stop = w.watch(t, chat)
		}
		if request(t, w, u, random) {
			served++
		}
	}
	chat.set(false)
	time.Sleep(2 * time.Hour)
	settle(u)
	stop()
	check(t, w, u, chat)
	if served < 100 || u.refusals < 100 {
		t.Errorf("%d served and %d refused: too little happened", served, u.refusals)
	}
	w.close(t)
}

// settle lets what is due now be written, and tells the model the time.
func settle(u *upstream) {
	time.Sleep(50 * time.Millisecond) // longer than any wait for a lock on the file
	u.pass(time.Now().Add(-50 * time.Millisecond))
}

// request sends one request as an agent's; it says whether it was answered.
func request(t *testing.T, w *world, u *upstream, random *rand.Rand) bool {
	t.Helper()
	route, ok := w.Route("api.example", 443, nil)
	if !ok {
		t.Fatal("no route")
	}
	var tried []string
	for {
		now := time.Now()
		status, err := w.PoolStatus(t.Context(), "p")
		if err != nil {
			t.Fatal(err)
		}
		lease, err := w.Acquire(t.Context(), route, tried)
		var exhausted *pool.ExhaustedError
		if errors.As(err, &exhausted) {
			if !u.soonest().After(now) {
				t.Fatalf("said no to an agent at %s, but a member is back since %s", now, u.soonest())
			}
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if u.until[lease.Member].After(now) {
			t.Fatalf("%s was asked %s before its time", lease.Member, u.until[lease.Member].Sub(now))
		}
		answer := pool.Answer{Status: http.StatusOK}
		if random.IntN(3) == 0 {
			wait := time.Duration(10+random.IntN(1200)) * time.Second
			answer = pool.Answer{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {fmt.Sprint(int(wait.Seconds()))}}}
			u.refuse(lease.Member, wait, now, status.Active)
		}
		outcome, err := w.Observe(t.Context(), lease, answer)
		if err != nil {
			t.Fatal(err)
		}
		if !outcome.Refused() {
			return true
		}
		tried = append(tried, lease.Member)
	}
}

func check(t *testing.T, w *world, u *upstream, chat *inbox) {
	t.Helper()
	events, err := w.EventsAfter(t.Context(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []pool.EventKind
	var seqs []int64
	for _, e := range events {
		kinds, seqs = append(kinds, e.Kind), append(seqs, e.Seq)
	}
	if !slices.Equal(kinds, u.want) {
		for i := range min(len(kinds), len(u.want)) {
			if kinds[i] != u.want[i] {
				t.Fatalf("event %d is %s, want %s (of %d, want %d)", i, kinds[i], u.want[i], len(kinds), len(u.want))
			}
		}
		t.Fatalf("%d events, want %d", len(kinds), len(u.want))
	}
	if got := chat.got(); !slices.Equal(got, seqs) {
		t.Errorf("%d notices, want %d, each once and in order", len(got), len(seqs))
	}
	t.Logf("%d refusals, %d notices", u.refusals, len(seqs))
}
