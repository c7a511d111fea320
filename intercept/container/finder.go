package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Options say where the daemons are.
type Options struct {
	Containerd string       // containerd's socket; "": DefaultContainerd
	Docker     string       // Docker's socket; "": DefaultDocker
	Log        *slog.Logger // nil: nothing is logged
	// Runtimes are the executables that start containers: their starts are held while Watch tells
	// of them. Empty: nothing is held.
	Runtimes []string
	// Timeout limits one question to a daemon. 0: 5 s.
	Timeout time.Duration
}

// Finder asks the container daemons of this host. It connects when it is first asked,
// and again after a daemon was away. Its methods may be called concurrently.
type Finder struct {
	opts Options

	mu         sync.Mutex
	containerd *client.Client
}

// New makes a Finder. Close it in the end.
func New(o Options) *Finder {
	if o.Containerd == "" {
		o.Containerd = DefaultContainerd
	}
	if o.Docker == "" {
		o.Docker = DefaultDocker
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	return &Finder{opts: o}
}

// Close gives up the connection to containerd.
func (f *Finder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.containerd == nil {
		return nil
	}
	err := f.containerd.Close()
	f.containerd = nil
	return err
}

// connect gives the client; a daemon that is not there is an error at once.
func (f *Finder) connect() (*client.Client, error) {
	if _, err := os.Stat(f.opts.Containerd); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.containerd == nil {
		c, err := client.New(f.opts.Containerd, client.WithTimeout(f.opts.Timeout))
		if err != nil {
			return nil, err
		}
		f.containerd = c
	}
	return f.containerd, nil
}

// Find returns the container that a query means, whether it runs or not. The error
// says what was looked for and where; it matches ErrNotFound, ErrAmbiguous (it names the candidates)
// or ErrUnavailable, which it is too if the container is nowhere and one of the daemons was not to be asked.
func (f *Finder) Find(ctx context.Context, q Query) (Container, error) {
	l, err := f.list(ctx, q.Namespace)
	if err != nil {
		return Container{}, fmt.Errorf("container %q: %w", q.Name, err)
	}
	c, err := choose(l.all, q.Name)
	if err == nil && c.Runtime == Docker && c.PID == 0 {
		c.PID, err = f.dockerPID(ctx, c.ID)
	}
	if !errors.Is(err, ErrNotFound) {
		return c, err
	}
	where := "looked for an id or its beginning, and for a name of nerdctl, Docker or Kubernetes, in " + strings.Join(l.looked, " and ")
	if len(l.silent) > 0 {
		return Container{}, partly(fmt.Sprintf("container %q: %s; not found there, and there is no answer from %s", q.Name, where, strings.Join(l.silent, " and ")))
	}
	return Container{}, fmt.Errorf("container %q: %w: %s", q.Name, err, where)
}

// partly is ErrUnavailable where another daemon does answer.
type partly string

func (p partly) Error() string { return string(p) }

// Is implements what [errors.Is] asks for.
func (partly) Is(other error) bool { return other == ErrUnavailable }

// Select returns the containers with a label, whether they run or not. namespace ""
// is all. The error matches ErrUnavailable.
func (f *Finder) Select(ctx context.Context, s Selector, namespace string) ([]Container, error) {
	l, err := f.list(ctx, namespace)
	if err != nil {
		return nil, fmt.Errorf("selector %s: %w", s, err)
	}
	return slices.DeleteFunc(l.all, func(c Container) bool { return !s.Matches(c) }), nil
}

// listing is what the daemons have.
type listing struct {
	all []Container
	// looked are the places that were looked at, and silent those where a daemon is and does not answer, for people.
	looked, silent []string
}

// list asks every daemon; one that is away is passed over as long as another answers.
func (f *Finder) list(ctx context.Context, namespace string) (l listing, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.opts.Timeout)
	defer cancel()
	all, names, missing := f.ofContainerd(ctx, namespace)
	l.all = all
	note := func(err error, place, silent string) {
		switch {
		case err == nil:
			l.looked = append(l.looked, place)
		case !errors.Is(err, fs.ErrNotExist):
			l.silent = append(l.silent, fmt.Sprintf("%s: %v", silent, f.plain(err)))
		}
	}
	note(missing, fmt.Sprintf("containerd (%s, namespaces %s)", f.opts.Containerd, orNone(names)), "containerd at "+f.opts.Containerd)
	var docker error
	if namespace == "" || namespace == namespaceDocker {
		var theirs []dockerContainer
		if theirs, docker = f.ofDocker(ctx); docker == nil {
			l.all = merge(l.all, theirs)
		}
		note(docker, fmt.Sprintf("Docker (%s)", f.opts.Docker), "Docker at "+f.opts.Docker)
	}
	if len(l.looked) == 0 {
		return listing{}, f.unavailable(missing, docker)
	}
	return l, nil
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func (f *Finder) unavailable(missing, docker error) error {
	text := fmt.Sprintf("containerd at %s: %v", f.opts.Containerd, f.plain(missing))
	if docker != nil {
		text += fmt.Sprintf("; Docker at %s: %v", f.opts.Docker, f.plain(docker))
	}
	return fmt.Errorf("%w (%s); the sockets are set by [containers] in the configuration", ErrUnavailable, text)
}

// plain is why a daemon does not answer, without what Go and gRPC put before it, which names the socket again.
func (f *Finder) plain(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	said, is := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), is && said.GRPCStatus().Code() == codes.DeadlineExceeded:
		return fmt.Errorf("no answer within %s", f.opts.Timeout)
	case is:
		return errors.New(said.GRPCStatus().Message())
	}
	return err
}

// ofContainerd lists what containerd has, in one namespace or in all.
func (f *Finder) ofContainerd(ctx context.Context, namespace string) (all []Container, names []string, err error) {
	c, err := f.connect()
	if err != nil {
		return nil, nil, err
	}
	names = []string{namespace}
	if namespace == "" {
		if names, err = c.NamespaceService().List(ctx); err != nil {
			return nil, nil, err
		}
	}
	for _, name := range names {
		in := namespaces.WithNamespace(ctx, name)
		found, err := c.ContainerService().List(in)
		if err != nil {
			return nil, nil, fmt.Errorf("namespace %s: %w", name, err)
		}
		tasks, err := c.TaskService().List(in, new(tasksapi.ListTasksRequest))
		if err != nil {
			return nil, nil, fmt.Errorf("namespace %s: %w", name, err)
		}
		running := make(map[string]int)
		for _, t := range tasks.Tasks {
			if t.Status != task.Status_STOPPED {
				running[t.ID] = int(t.Pid)
			}
		}
		for _, one := range found {
			all = append(all, convert(one, name, running[one.ID]))
		}
	}
	labelByPods(all)
	return all, names, nil
}

func convert(c containers.Container, namespace string, pid int) Container {
	out := Container{ID: c.ID, Namespace: namespace, Labels: c.Labels, Environment: environmentOf(c.Spec), PID: pid, Created: c.CreatedAt}
	out.complete()
	return out
}

// environmentOf reads a specification, which its client has written as JSON; nil if it is none that we know.
func environmentOf(spec typeurl.Any) []string {
	var s struct {
		Process struct{ Env []string }
	}
	if spec == nil || json.Unmarshal(spec.GetValue(), &s) != nil {
		return nil
	}
	return s.Process.Env
}

// load is one container of containerd's, with what Docker knows of it.
func (f *Finder) load(ctx context.Context, c *client.Client, namespace, id string) (Container, error) {
	ctx, cancel := context.WithTimeout(ctx, f.opts.Timeout)
	defer cancel()
	found, err := c.ContainerService().Get(namespaces.WithNamespace(ctx, namespace), id)
	if errdefs.IsNotFound(err) {
		return Container{}, ErrNotFound
	}
	if err != nil {
		return Container{}, err
	}
	out := convert(found, namespace, 0)
	if uid := out.Labels[labelPodUID]; uid != "" && !out.sandbox() {
		theirs, err := c.ContainerService().List(namespaces.WithNamespace(ctx, namespace),
			fmt.Sprintf("labels.%q==sandbox,labels.%q==%q", labelKind, labelPodUID, uid))
		if err != nil {
			return Container{}, fmt.Errorf("the pod of %s: %w", id, err)
		}
		for _, one := range theirs {
			out.add(one.Labels)
		}
	}
	if out.Runtime == Docker {
		// Docker's list and not its inspect: that waits until a start is over.
		theirs, err := f.ofDocker(ctx, id)
		if err != nil {
			f.opts.Log.Warn("a container's Docker name is not known", "container", id, "error", err)
		}
		out = merge([]Container{out}, theirs)[0]
	}
	return out, nil
}
