package reset

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-proxy/sluice/pool"
)

// ValidProfile says why a pool cannot name a profile; nil if it can.
func (r *Resetter) ValidProfile(name string) error {
	_, err := r.opts.Profiles.Find(name)
	return err
}

// Reset resets a pool's agents now, whether or not they were told anything, and waits
// for what becomes of it; what runs goes on if ctx ends. Errors are *[pool.Error]: a
// failed reset is none unless no runtime could be reached.
func (r *Resetter) Reset(ctx context.Context, name string) ([]Outcome, error) {
	if _, err := r.ordered(ctx, name); err != nil {
		return nil, err
	}
	answer := make(chan []Outcome, 1)
	if err := r.request(ctx, name, answer); err != nil {
		return nil, err
	}
	defer r.forget(name, answer)
	r.raise()
	select {
	case outcomes := <-answer:
		return outcomes, unreachable(outcomes)
	case <-r.done:
		return nil, &pool.Error{Code: pool.CodeUnavailable, Message: "the daemon is stopping: the reset is done when it runs again"}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ordered is orders with the errors that a person is told.
func (r *Resetter) ordered(ctx context.Context, name string) ([]order, error) {
	orders, err := r.orders(ctx, name)
	if errors.Is(err, errOff) {
		return nil, pool.Conflict("pool %q has no auth_reset_target: 'sluice pool set-auth-reset %s TARGET' sets it", name, name)
	}
	return orders, err
}

// request makes the reset due with somebody who waits for it, or says that one is
// under way. The lock is held so that nobody claims it before it is known who waits.
func (r *Resetter) request(ctx context.Context, name string, answer chan []Outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	due, err := r.opts.Ledger.RequestReset(ctx, name, 0, false)
	if err != nil {
		return err
	}
	if !due {
		return pool.Conflict("the agents of pool %q are being reset already: 'sluice events' tells how that ends", name)
	}
	r.waiters[name] = answer
	return nil
}

// forget is for one who does not wait any more; by now another one may.
func (r *Resetter) forget(name string, answer chan []Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiters[name] == answer {
		delete(r.waiters, name)
	}
}

// unreachable is an error if no agent was reached because its runtime is away.
func unreachable(outcomes []Outcome) error {
	for _, o := range outcomes {
		if !errors.Is(o.err, ErrUnavailable) {
			return nil
		}
	}
	if len(outcomes) == 0 {
		return nil
	}
	return &pool.Error{Code: pool.CodeUnavailable, Message: fmt.Sprintf("%s: %s", outcomes[0].Agent, outcomes[0].Reason)}
}

// Plan says what Reset would run, and runs nothing.
func (r *Resetter) Plan(ctx context.Context, name string) ([]Outcome, error) {
	orders, err := r.ordered(ctx, name)
	if err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(orders))
	var group errgroup.Group
	group.SetLimit(maxPlanned)
	for i, o := range orders {
		group.Go(func() error {
			outcomes[i] = r.bounded(ctx, o.agent, planLimit, func(ctx context.Context) Outcome {
				out := Outcome{Agent: o.agent}
				if out.Command, out.err = o.plan(ctx); out.err != nil {
					out.Reason = o.explain(out.err)
				}
				return out
			})
			return nil
		})
	}
	_ = group.Wait() // each says how it went
	return outcomes, unreachable(outcomes)
}

// EnvironmentNames are the names of the variables that the command gets.
func (o Outcome) EnvironmentNames() []string { return namesOf(o.Command.Environment) }
