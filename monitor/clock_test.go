package monitor

import (
	"net/http"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// TestTheClockIsFollowedBeforeAnythingIsServed: a daemon that starts on a clock that was set meanwhile has moved its cooldowns
// along before its monitor runs.
func TestTheClockIsFollowedBeforeAnythingIsServed(t *testing.T) {
	w := open(t, t.TempDir())
	defer w.close(t)
	if _, err := w.AddCredential(t.Context(), pool.CredentialSpec{Name: "a", Type: pool.Static, Secret: vault.NewSecret([]byte("sk-only-31415926"))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"a"}, Provider: "openai"}); err != nil {
		t.Fatal(err)
	}
	route, ok := w.Route("api.openai.com", 443, nil)
	if !ok {
		t.Fatal("the host is not bound")
	}
	lease, err := w.Acquire(t.Context(), route, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Observe(t.Context(), lease, pool.Answer{Status: 429, Header: http.Header{}, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	until := func() time.Time {
		t.Helper()
		status, err := w.PoolStatus(t.Context(), "p")
		if err != nil || len(status.Members) != 1 {
			t.Fatalf("%+v, %v", status, err)
		}
		return status.Members[0].Until
	}
	m, err := New(t.Context(), Options{Pools: w, Events: w, Cursors: w.db})
	if err != nil {
		t.Fatal(err)
	}
	before := until()
	for _, by := range []time.Duration{0, time.Hour, time.Hour, 3 * time.Hour, 2 * time.Hour} {
		if err := m.followClock(t.Context(), func() (anchor, error) { return anchor{BootID: "one", Offset: by}, nil }); err != nil {
			t.Fatal(err)
		}
		if now := until(); !now.Equal(before.Add(by)) {
			t.Errorf("set by %s, it is out until %s, and was until %s", by, now, before)
		}
	}
}
