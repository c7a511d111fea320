// Package containerd runs commands in containers through containerd, those that Docker,
// nerdctl and Kubernetes keep there included.
package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/reset/inside"
)

// callLimit is how long containerd may take for one answer.
const callLimit = 10 * time.Second

// Found is a container: its id, in one of containerd's namespaces.
type Found struct{ Namespace, ID string }

// Options of [New]. Client is required.
type Options struct {
	// Client is connected to containerd, or will be: it need not run yet.
	Client *client.Client
	// Find finds a container by what people call it. Its error wraps [reset.ErrNotFound]
	// or [reset.ErrUnavailable] where one is true. Default: the reference is an id in
	// the client's own namespace.
	Find func(ctx context.Context, ref string) (Found, error)
	// FIFODir is where commands' output passes through; containerd has to see it under
	// the same path. Default: containerd's own.
	FIFODir string
	Log     *slog.Logger // nil discards
}

// Runtime reaches agents in containers.
type Runtime struct {
	opts Options
	// instance is this runtime's alone: it tells its commands from those that one of a
	// daemon that was killed has left.
	instance string
}

var _ reset.Runtime = (*Runtime)(nil)

// New makes a runtime.
func New(o Options) *Runtime {
	if o.Find == nil {
		o.Find = func(_ context.Context, ref string) (Found, error) { return Found{ID: ref}, nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Runtime{opts: o, instance: rand.Text()}
}

// box is a running container.
type box struct {
	ref       string
	container client.Container
	task      client.Task
}

// Environment is that of the container: whoever runs in it gets it.
func (r *Runtime) Environment(ctx context.Context, ref string, _ uint32) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	ctx, b, err := r.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	spec, err := b.container.Spec(ctx)
	if err != nil {
		return nil, b.explain(err)
	}
	if spec.Process == nil {
		return nil, fmt.Errorf("container %s has no process in its specification", ref)
	}
	return spec.Process.Env, nil
}

// ReadFile implements [reset.Runtime].
func (r *Runtime) ReadFile(ctx context.Context, ref, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, b, err := r.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	return inside.ReadFile(int(b.task.Pid()), path, limit)
}

// open finds a container that runs. The context that it returns is for its namespace.
func (r *Runtime) open(ctx context.Context, ref string) (context.Context, *box, error) {
	b := &box{ref: ref}
	found, err := r.opts.Find(ctx, ref)
	if errors.Is(err, reset.ErrNotFound) {
		// Docker may have answered while containerd is away: what is not found then may be there later.
		if _, away := r.opts.Client.Version(ctx); away != nil {
			return ctx, nil, b.explain(away)
		}
	}
	if err != nil {
		return ctx, nil, err
	}
	if found.Namespace != "" {
		ctx = namespaces.WithNamespace(ctx, found.Namespace)
	}
	if b.container, err = r.opts.Client.LoadContainer(ctx, found.ID); err != nil {
		return ctx, nil, b.explain(err)
	}
	b.task, err = b.container.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return ctx, nil, b.notRunning("has never been started, or was stopped")
	}
	if err != nil {
		return ctx, nil, b.explain(err)
	}
	status, err := b.task.Status(ctx)
	if err != nil {
		return ctx, nil, b.explain(err)
	}
	if status.Status != client.Running {
		return ctx, nil, b.notRunning("is " + string(status.Status))
	}
	return ctx, b, nil
}

func (b *box) notRunning(why string) error {
	return fmt.Errorf("container %s is %w: it %s", b.ref, reset.ErrNotRunning, why)
}

// explain says in sluice's words what containerd says.
func (b *box) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err):
		return fmt.Errorf("container %s: %w in containerd", b.ref, reset.ErrNotFound)
	case isAway(err):
		return fmt.Errorf("containerd is %w: %s", reset.ErrUnavailable, err)
	}
	return fmt.Errorf("container %s: %w", b.ref, err)
}

// isAway is of an error that says that containerd gave no answer.
func isAway(err error) bool {
	switch status.Code(err) { // what is not a gRPC status is codes.Unknown
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	}
	return errdefs.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err)
}
