package pool_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// holding runs f with a pool "p" of one member that holds requests for 30 s; its time
// is the bubble's.
func holding(t *testing.T, f func(t *testing.T, b *bench, r pool.Route)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(o *pool.Options) { o.Now, o.MaxHeld = nil, 3 })
		if _, err := b.AddCredential(t.Context(), pool.CredentialSpec{Name: "a", Secret: vault.NewSecret([]byte("sk-a"))}); err != nil {
			t.Fatal(err)
		}
		p := pool.Pool{Name: "p", Members: []string{"a"}, Hold: 30 * time.Second, Bindings: []pool.Binding{{Host: "h.example", Port: 443, Header: "X: {token}"}}}
		if _, err := b.CreatePool(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		r, _ := b.Route("h.example", 443, nil)
		f(t, b, r)
	})
}

func refuse(t *testing.T, b *bench, r pool.Route, seconds int) {
	t.Helper()
	b.answer(t, b.acquire(t, r), 429, fmt.Sprint(seconds))
}

func TestHeldRequestsGoOnInOrder(t *testing.T) {
	t.Parallel()
	holding(t, func(t *testing.T, b *bench, r pool.Route) {
		refuse(t, b, r, 20)
		began := time.Now()
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				if !b.Hold(context.Background(), r, pool.Tie{}) {
					t.Errorf("request %d was let down", i)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			time.Sleep(time.Second)
		}
		if b.Hold(t.Context(), r, pool.Tie{}) {
			t.Error("more are held than may be")
		}
		if n := b.Held()["p"]; n != 3 {
			t.Errorf("%d are held, want 3", n)
		}
		wg.Wait()
		if waited := time.Since(began); waited < 20*time.Second || waited > 21*time.Second {
			t.Errorf("waited %s, want 20s", waited)
		}
		if !slices.IsSorted(order) || len(b.Held()) != 0 {
			t.Errorf("went on in the order %v; %v are still held", order, b.Held())
		}
		b.acquire(t, r)
	})
}

func TestAHeldRequestIsLetGo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		out   int // seconds that the member is out
		then  func(t *testing.T, b *bench, cancel func())
		again bool
		after time.Duration
	}{
		"not in time":       {31, nil, false, 0},
		"cleared by hand":   {25, func(t *testing.T, b *bench, _ func()) { check(t, b.Clear(t.Context(), "p", "")) }, true, 5 * time.Second},
		"the client leaves": {25, func(_ *testing.T, _ *bench, cancel func()) { cancel() }, false, 5 * time.Second},
		"the pool goes":     {25, func(t *testing.T, b *bench, _ func()) { check(t, b.RemovePool(t.Context(), "p")) }, false, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			holding(t, func(t *testing.T, b *bench, r pool.Route) {
				refuse(t, b, r, c.out)
				began := time.Now()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				done := make(chan bool)
				go func() { done <- b.Hold(ctx, r, pool.Tie{}) }()
				if c.then != nil {
					time.Sleep(5 * time.Second)
					c.then(t, b, cancel)
				}
				if again := <-done; again != c.again {
					t.Errorf("leased again: %t, want %t", again, c.again)
				}
				if waited := time.Since(began).Truncate(time.Second); waited != c.after {
					t.Errorf("waited %s, want %s", waited, c.after)
				}
			})
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestOneWhoLeavesTheLineGivesTheTurnOn(t *testing.T) {
	t.Parallel()
	holding(t, func(t *testing.T, b *bench, r pool.Route) {
		refuse(t, b, r, 20)
		ctx, cancel := context.WithCancel(context.Background())
		first, second := make(chan bool), make(chan bool)
		go func() { first <- b.Hold(ctx, r, pool.Tie{}) }()
		time.Sleep(time.Second)
		go func() { second <- b.Hold(context.Background(), r, pool.Tie{}) }()
		time.Sleep(time.Second)
		cancel()
		if <-first {
			t.Error("a request whose client has left is sent")
		}
		if !<-second {
			t.Error("the one behind it was let down")
		}
	})
}

func TestHoldIsOffByDefault(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	b.answer(t, b.acquire(t, r), 429, "10")
	if b.Hold(t.Context(), r, pool.Tie{}) {
		t.Error("held")
	}
	for _, hold := range []time.Duration{-time.Second, pool.MaxHold + 1} {
		if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "q", Members: []string{"a"}, Provider: "openai", Hold: hold}); err == nil {
			t.Errorf("a hold of %s is taken", hold)
		}
	}
}

// An edit of the pool is no way past those who are held, and loses none of them.
func TestHeldRequestsOutlastAnEdit(t *testing.T) {
	t.Parallel()
	holding(t, func(t *testing.T, b *bench, r pool.Route) {
		refuse(t, b, r, 20)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if !b.Hold(context.Background(), r, pool.Tie{}) {
					t.Error("let down by an edit")
				}
			})
		}
		time.Sleep(time.Second)
		if err := b.SetAuthResetTarget(t.Context(), "p", "x"); err != nil {
			t.Fatal(err)
		}
		if n := b.Held()["p"]; n != 3 {
			t.Errorf("%d are held, want 3", n)
		}
		if b.Hold(t.Context(), r, pool.Tie{}) {
			t.Error("more are held than may be")
		}
		wg.Wait()
	})
}
