package pool_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// A rejection of the tokens that there were says nothing of those that a person has given since.
func TestTokensFromAPersonAreNotRejectedForTheLast(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	asked, given := make(chan struct{}), make(chan struct{})
	s.set(func(s *tokenServer) {
		s.good, s.refusing = "rt-mine", func() { close(asked); <-given; s.refusing = nil }
	})
	l := b.acquire(t, r)
	done := make(chan pool.Lease)
	go func() {
		next, _ := b.Refresh(t.Context(), r, l)
		done <- next
	}()
	<-asked
	ends := b.clock().Add(2 * time.Hour).UTC()
	if _, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{OAuth: &pool.OAuthTokens{
		AccessToken: vault.NewSecret([]byte("at-mine")), RefreshToken: vault.NewSecret([]byte("rt-mine")), ExpiresAt: ends,
	}}); err != nil {
		t.Fatal(err)
	}
	close(given)
	if next := shown(<-done); next != "[{authorization Bearer at-mine}]" {
		t.Errorf("the request does not go on with the new token: %s", next)
	}
	if c := b.credential(t, "a"); !c.RefreshFailed.IsZero() || !c.ExpiresAt.Equal(ends) || b.count(t, pool.EventRefreshFailed) != 0 {
		t.Errorf("the new tokens are held for rejected: %+v", c)
	}
	if st := b.status(t); st.State != pool.StateHealthy || st.Active != "a" {
		t.Errorf("status %+v", st)
	}
	if next, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); !ok || token(next) == "at-mine" {
		t.Error("the new tokens are left alone as the last ones would be")
	}
}

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

func (s frozenCredentials) UpdateCredential(ctx context.Context, r pool.CredentialRecord, then pool.Change, ready func() error) error {
	if s.full.Load() {
		return errFull
	}
	return s.Store.UpdateCredential(ctx, r, then, ready)
}

// An endpoint that says how long it wants to be left alone is.
func TestAnEndpointIsLeftAloneAsLongAsItSays(t *testing.T) {
	t.Parallel()
	b, s, r := accounts(t, time.Hour)
	l := b.acquire(t, r)
	refused := func(want int) {
		t.Helper()
		if _, ok := b.Refresh(t.Context(), r, l); ok || s.requests() != want {
			t.Fatalf("refreshed %t, %d requests, want %d", ok, s.requests(), want)
		}
	}
	s.set(func(s *tokenServer) { s.fail, s.code = 503, "temporarily_unavailable" })
	refused(1)
	b.pass(6 * time.Second)
	s.set(func(s *tokenServer) { s.fail, s.later = 429, "120" })
	refused(2)
	b.pass(time.Minute)
	refused(2)
	b.pass(time.Minute)
	s.set(func(s *tokenServer) { s.fail = 0 })
	if _, ok := b.Refresh(t.Context(), r, l); !ok {
		t.Error("not asked again")
	}
}
