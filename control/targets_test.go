package control

import (
	"fmt"
	"testing"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/pool"
)

// What the kernel or somebody else keeps from being attached is for whoever asked to know, not for the daemon's log alone.
func TestWhyNothingIsAttachedIsTold(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]pool.Code{
		intercept.ErrUnsupported: pool.CodeUnavailable,
		intercept.ErrStopped:     pool.CodeUnavailable,
		intercept.ErrExclusive:   pool.CodeConflict,
		intercept.ErrNotFound:    pool.CodeNotFound,
	} {
		wrapped := fmt.Errorf("unit x: %w", err)
		if got := Explain(targetError(wrapped)); got.Code != want || got.Message != wrapped.Error() {
			t.Errorf("%v is told as %d %s, want %d and its own words", err, got.Code, got.Message, want)
		}
	}
}
