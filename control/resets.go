package control

import (
	"context"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/reset"
)

// AuthResetTargets says what agents' auth is reset for; *pool.Keeper does.
type AuthResetTargets interface {
	SetAuthResetTarget(ctx context.Context, pool, target string) error
}

// Resets resets agents; *reset.Resetter does. Errors are *[pool.Error].
type Resets interface {
	// ValidProfile says why a pool cannot have a profile.
	ValidProfile(name string) error
	// Reset resets the agents of a pool and waits for it.
	Reset(ctx context.Context, pool string) ([]reset.Outcome, error)
	// Plan is what Reset would do.
	Plan(ctx context.Context, pool string) ([]reset.Outcome, error)
}

// SetAuthResetTarget says what the auth of a pool's agents is reset for when the pool
// recovers; "" is nothing, and no reset.
func (o *Operations) SetAuthResetTarget(ctx context.Context, by Actor, name, target string) (pool.PoolStatus, error) {
	return o.changePool(ctx, by, "auth reset target set", []string{name}, func(ctx context.Context) error {
		return o.o.AuthResetTargets.SetAuthResetTarget(ctx, name, target)
	})
}

// ResetAgents resets the agents of a pool now. With dryRun it says what would be run.
func (o *Operations) ResetAgents(ctx context.Context, by Actor, name string, dryRun bool) ([]reset.Outcome, error) {
	if dryRun {
		return o.o.Resets.Plan(ctx, name)
	}
	actor := by.String()
	outcomes, err := o.o.Resets.Reset(pool.WithActor(ctx, actor), name)
	if err != nil {
		o.o.Log.Warn("not done: agents reset", "pool", name, "by", actor, "error", err)
		return nil, err
	}
	o.o.Log.Info("agents reset", "pool", name, "by", actor)
	return outcomes, nil
}
