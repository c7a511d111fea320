package control

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
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
		cgroup.ErrUnitName:       pool.CodeInvalid,
	} {
		wrapped := fmt.Errorf("unit x: %w", err)
		if got := Explain(targetError(wrapped)); got.Code != want || got.Message != wrapped.Error() {
			t.Errorf("%v is told as %d %s, want %d and its own words", err, got.Code, got.Message, want)
		}
	}
}

// hungTrust does not come back from the look at one target, until it may.
type hungTrust struct {
	id    string
	may   chan struct{}
	looks atomic.Int32 // at that target
}

func (h *hungTrust) Untrusting(t intercept.Target) []intercept.Untrusting {
	if t.ID == h.id {
		h.looks.Add(1)
		<-h.may
	}
	return []intercept.Untrusting{{Process: "of " + t.ID}}
}

// attachedTargets are attached.
type attachedTargets struct {
	otherTargets
	ids []string
}

type otherTargets = Targets

// noPools is that there is none.
type noPools struct{ otherPools }

type otherPools = Pools

func (noPools) Pools(context.Context) ([]pool.Pool, error) { return nil, nil }

func (a attachedTargets) Targets() []intercept.Target {
	var all []intercept.Target
	for _, id := range a.ids {
		all = append(all, intercept.Target{ID: id, State: intercept.StateAttached})
	}
	return all
}

// Files that do not answer keep nobody from knowing of the others, and are waited for once.
func TestTargetsWhoseFilesDoNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		trust := &hungTrust{id: "b", may: make(chan struct{})}
		o := New(Options{Pools: noPools{}, Targets: attachedTargets{ids: []string{"a", "b", "c"}}, Trust: trust})
		hear := func(want string, limit time.Duration) {
			t.Helper()
			began, got := time.Now(), ""
			for _, target := range o.ListTargets() {
				for _, u := range target.Untrusting {
					got += u.Process + ", "
				}
				if target.Reason != "" {
					got += target.ID + " hangs, "
				}
			}
			if took := time.Since(began); got != want || took != limit {
				t.Errorf("%q after %s, want %q after %s", got, took, want, limit)
			}
		}
		hear("of a, b hangs, of c, ", lookLimit)
		hear("of a, b hangs, of c, ", 0)
		if n := trust.looks.Load(); n != 1 {
			t.Errorf("what hangs was begun %d times", n)
		}
		close(trust.may)
		synctest.Wait()
		hear("of a, of b, of c, ", 0)
	})
}
