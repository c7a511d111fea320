package pool_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// TestNothingIsSpentThatCannotBeReplaced: a store that takes nothing is found out before the
// refresh token is of no use any more.
func TestNothingIsSpentThatCannotBeReplaced(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	b.stop()
	var full atomic.Bool
	b.wrap = func(store pool.Store) pool.Store { return frozenCredentials{store, &full} }
	b.start(t)
	full.Store(true)
	l := b.acquire(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // what is spent is stored at some time, or never
	defer cancel()
	if _, ok := b.Refresh(ctx, r, l); ok || s.requests() != 0 {
		t.Fatalf("refreshed %t, %d requests to the token endpoint", ok, s.requests())
	}
	if st := b.status(t); st.State != pool.StateHealthy {
		t.Errorf("status %+v", st)
	}
	full.Store(false)
	b.pass(10 * time.Second)
	if next, ok := b.Refresh(t.Context(), r, l); !ok || token(next) != "at-1" {
		t.Error("not refreshed though there is room")
	}
}

// frozenCredentials takes no change of one while it is full.
type frozenCredentials struct {
	pool.Store
	full *atomic.Bool
}

func (s frozenCredentials) UpdateCredential(ctx context.Context, r pool.CredentialRecord) error {
	if s.full.Load() {
		return errFull
	}
	return s.Store.UpdateCredential(ctx, r)
}
