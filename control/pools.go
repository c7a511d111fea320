package control

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/pool"
)

// Pools keeps the pools; *pool.Keeper is one. Errors are *[pool.Error].
type Pools interface {
	CreatePool(ctx context.Context, p pool.Pool) (pool.Pool, error)
	Pools(ctx context.Context) ([]pool.Pool, error)
	PoolStatus(ctx context.Context, name string) (pool.PoolStatus, error)
	Rotate(ctx context.Context, name string) error
	RemovePool(ctx context.Context, name string) error
}

// Members changes who is in a pool, and with that what is bound: an account brings its
// token endpoint. *pool.Keeper does. Errors are *[pool.Error].
type Members interface {
	AddMember(ctx context.Context, name, credential string) error
	RemoveMember(ctx context.Context, name, credential string) error
	// Clear lifts the cooldown of a member, or of all if member is empty.
	Clear(ctx context.Context, name, member string) error
}

// ListPools lists the pools by name, each with the state it is in.
func (o *Operations) ListPools(ctx context.Context) ([]pool.PoolStatus, error) {
	pools, err := o.o.Pools.Pools(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]pool.PoolStatus, 0, len(pools))
	for _, p := range pools {
		status, err := o.o.Pools.PoolStatus(ctx, p.Name)
		if isNotFound(err) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}
		list = append(list, status)
	}
	return list, nil
}

// Pool is a pool with the state of each member.
func (o *Operations) Pool(ctx context.Context, name string) (pool.PoolStatus, error) {
	return o.o.Pools.PoolStatus(ctx, name)
}

// CreatePool creates a pool. The authority may sign for its hosts, and what is attached trusts
// that, before the operation is done, and so does an agent that is started next.
func (o *Operations) CreatePool(ctx context.Context, by Actor, p pool.Pool) (pool.PoolStatus, error) {
	err := o.change(ctx, by, "pool created", append([]string{p.Name}, p.Members...), func(ctx context.Context) error {
		if err := o.o.Resets.ValidProfile(p.AgentProfile); err != nil {
			return err
		}
		if _, err := o.o.Pools.CreatePool(ctx, p); err != nil {
			return err
		}
		o.o.Authority.Confide()
		return nil
	})
	if err != nil {
		return pool.PoolStatus{}, err
	}
	return o.Pool(ctx, p.Name)
}

// RemovePool removes a pool; its credentials stay. It says which targets it served that no pool serves from then on.
func (o *Operations) RemovePool(ctx context.Context, by Actor, name string) (left []intercept.Target, err error) {
	err = o.change(ctx, by, "pool removed", []string{name}, func(ctx context.Context) error {
		if err := o.o.Pools.RemovePool(ctx, name); err != nil {
			return err
		}
		left = o.o.Targets.Targets()
		o.unserved(context.WithoutCancel(ctx), left)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(left, func(t intercept.Target) bool {
		return !t.Unserved || len(t.Pools) > 0 && !slices.Contains(t.Pools, name)
	}), nil
}

// RotatePool makes the next member active.
func (o *Operations) RotatePool(ctx context.Context, by Actor, name string) (pool.PoolStatus, error) {
	return o.changePool(ctx, by, "pool rotated", []string{name}, func(ctx context.Context) error {
		return o.o.Pools.Rotate(ctx, name)
	})
}

// ClearPool lifts the cooldown of a member, or of all if member is empty.
func (o *Operations) ClearPool(ctx context.Context, by Actor, name, member string) (pool.PoolStatus, error) {
	return o.changePool(ctx, by, "cooldown cleared", []string{name}, func(ctx context.Context) error {
		return o.o.Members.Clear(ctx, name, member)
	})
}

// AddMember adds a credential as the last member.
func (o *Operations) AddMember(ctx context.Context, by Actor, name, credential string) (pool.PoolStatus, error) {
	return o.changePool(ctx, by, "member added", []string{name, credential}, func(ctx context.Context) error {
		if err := o.o.Members.AddMember(ctx, name, credential); err != nil {
			return err
		}
		o.o.Authority.Confide()
		return nil
	})
}

// RemoveMember takes a credential out of a pool.
func (o *Operations) RemoveMember(ctx context.Context, by Actor, name, credential string) (pool.PoolStatus, error) {
	return o.changePool(ctx, by, "member removed", []string{name, credential}, func(ctx context.Context) error {
		return o.o.Members.RemoveMember(ctx, name, credential)
	})
}

// changePool is change for the pool that is the first of the names, and says what
// it is like afterwards.
func (o *Operations) changePool(
	ctx context.Context, by Actor, what string, names []string, do func(context.Context) error,
) (status pool.PoolStatus, err error) {
	err = o.change(ctx, by, what, names, func(ctx context.Context) error {
		if err := do(ctx); err != nil {
			return err
		}
		// Looked at before anybody else may change it.
		status, err = o.Pool(context.WithoutCancel(ctx), names[0])
		return err
	})
	return status, err
}

func isNotFound(err error) bool {
	var known *pool.Error
	return errors.As(err, &known) && known.Code == pool.CodeNotFound
}

func invalid(format string, args ...any) error {
	return &pool.Error{Code: pool.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}
