package control

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/container"
	"github.com/sluice-proxy/sluice/pool"
)

// Targets attaches and detaches; *intercept.Interceptor is one.
type Targets interface {
	Attach(ctx context.Context, r intercept.Request) (intercept.Target, error)
	Detach(ctx context.Context, id string) error
	DetachAll(ctx context.Context) error
	Targets() []intercept.Target
	// Connections is how many are open now.
	Connections() int
}

// Trust tells who does not trust the CA.
type Trust interface {
	// Untrusting looks at the processes that a target has now. It may be called for several targets at a time, and does
	// not come back where a file system does not answer.
	Untrusting(t intercept.Target) []intercept.Untrusting
}

// Placeholders gives what an agent may hold instead of a secret; *pool.Keeper does.
type Placeholders interface {
	// Placeholders maps the providers' environment variables to placeholders.
	// No pool named means all pools.
	Placeholders(pools []string) map[string]string
}

// TargetSpec is what to attach: one of Cgroup to Selector.
type TargetSpec struct {
	Cgroup    string   // absolute path
	PID       int      // the process whose cgroup is meant
	Unit      string   // a unit of systemd's
	Container string   // a container's id or name
	Selector  string   // KEY=VALUE: each container with this label, now and later
	Namespace string   // containerd's, for Container and Selector; empty is any
	Pools     []string // only these serve it; empty is every pool
	Transient bool     // ends with its cgroup; PID is the process that fills it
	// KeepConnections lets connections to bound ports that are there already be.
	KeepConnections bool
}

// ListTargets lists the targets, oldest first, those that no pool serves, and who in them does not trust the CA.
func (o *Operations) ListTargets() []intercept.Target {
	all := o.o.Targets.Targets()
	o.unserved(context.Background(), all)
	o.untrusting(all)
	return all
}

// unserved notes which targets no pool serves: what they send goes out as it is.
func (o *Operations) unserved(ctx context.Context, all []intercept.Target) {
	pools, err := o.o.Pools.Pools(ctx)
	if err != nil {
		o.o.Log.Warn("which targets no pool serves is not known", "error", err)
		return
	}
	there := make(map[string]bool, len(pools))
	for _, p := range pools {
		there[p.Name] = true
	}
	for i := range all {
		t := &all[i]
		if t.Unserved = len(pools) == 0; len(t.Pools) > 0 {
			t.Unserved = !slices.ContainsFunc(t.Pools, func(name string) bool { return there[name] })
		}
	}
}

// Attach attaches a cgroup and says which placeholders its processes may hold.
func (o *Operations) Attach(ctx context.Context, by Actor, s TargetSpec) (intercept.Target, map[string]string, error) {
	request, err := s.request()
	if err != nil {
		return intercept.Target{}, nil, err
	}
	for _, name := range s.Pools {
		if _, err := o.Pool(ctx, name); err != nil {
			return intercept.Target{}, nil, err
		}
	}
	var target intercept.Target
	err = o.change(ctx, by, "target attached", nil, func(ctx context.Context) (err error) {
		target, err = o.o.Targets.Attach(ctx, request)
		return targetError(err)
	})
	if err != nil {
		return intercept.Target{}, nil, err
	}
	made := []intercept.Target{target}
	o.unserved(ctx, made)
	o.untrusting(made)
	return made[0], o.o.Placeholders.Placeholders(s.Pools), nil
}

func (s TargetSpec) request() (intercept.Request, error) {
	r := intercept.Request{
		Kind: intercept.KindCgroup, Cgroup: s.Cgroup, PID: s.PID, Unit: s.Unit,
		Container: s.Container, Selector: s.Selector, Namespace: s.Namespace, Pools: s.Pools,
		KeepConnections: s.KeepConnections,
	}
	if s.Transient {
		switch {
		case s.Cgroup == "":
			return r, invalid("cgroup: a transient target needs one")
		case s.Unit != "" || s.Container != "" || s.Selector != "" || s.Namespace != "":
			return r, invalid("transient: such a target is a cgroup, and nothing else")
		}
		r.Kind = intercept.KindRun
		return r, nil
	}
	var given []string
	for _, x := range []struct {
		field string
		given bool
		kind  intercept.Kind
	}{
		{"cgroup", s.Cgroup != "", intercept.KindCgroup},
		{"pid", s.PID != 0, intercept.KindPID},
		{"unit", s.Unit != "", intercept.KindUnit},
		{"container", s.Container != "", intercept.KindContainer},
		{"selector", s.Selector != "", intercept.KindSelector},
	} {
		if x.given {
			given = append(given, x.field)
			r.Kind = x.kind
		}
	}
	switch {
	case len(given) == 0:
		return r, invalid("cgroup: give one of cgroup, pid, unit, container and selector")
	case len(given) > 1:
		return r, invalid("%s: give one of cgroup, pid, unit, container and selector, not %s", given[1], strings.Join(given, " and "))
	case s.Namespace != "" && r.Kind != intercept.KindContainer && r.Kind != intercept.KindSelector:
		return r, invalid("namespace: it is containerd's, and goes with container or selector")
	}
	if s.Selector != "" {
		if _, err := container.ParseSelector(s.Selector); err != nil {
			return r, invalid("%v", err)
		}
	}
	return r, nil
}

// Detach takes sluice off a target.
func (o *Operations) Detach(ctx context.Context, by Actor, id string) error {
	return o.change(ctx, by, "target detached", []string{id}, func(ctx context.Context) error {
		return targetError(o.o.Targets.Detach(ctx, id))
	})
}

// DetachAll takes sluice off every target and says which ones there were.
func (o *Operations) DetachAll(ctx context.Context, by Actor) ([]intercept.Target, error) {
	before := o.o.Targets.Targets()
	err := o.change(ctx, by, "all targets detached", nil, func(ctx context.Context) error {
		return targetError(o.o.Targets.DetachAll(ctx))
	})
	if err != nil {
		return nil, err
	}
	return before, nil
}

// targetError gives the errors of the data plane their codes.
func targetError(err error) error {
	if err == nil {
		return nil
	}
	code := pool.CodeInternal
	switch {
	case errors.Is(err, intercept.ErrConflict), errors.Is(err, intercept.ErrExclusive):
		code = pool.CodeConflict
	case errors.Is(err, intercept.ErrStopped), errors.Is(err, container.ErrUnavailable), errors.Is(err, intercept.ErrUnsupported):
		code = pool.CodeUnavailable
	case errors.Is(err, container.ErrAmbiguous), errors.Is(err, cgroup.ErrManyUnits), errors.Is(err, cgroup.ErrUnitName):
		code = pool.CodeInvalid
	case errors.Is(err, container.ErrNotFound), errors.Is(err, cgroup.ErrNoUnit):
		code = pool.CodeNotFound
	case errors.Is(err, intercept.ErrNotFound), errors.Is(err, fs.ErrNotExist), errors.Is(err, cgroup.ErrGone):
		code = pool.CodeNotFound
	case errors.Is(err, cgroup.ErrVersion1), errors.Is(err, cgroup.ErrNotCgroup), errors.Is(err, cgroup.ErrOwn), errors.Is(err, cgroup.ErrShared):
		code = pool.CodeInvalid
	default:
		return err
	}
	return &pool.Error{Code: code, Message: err.Error()}
}
