package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
)

// Change is what has become of a container.
type Change uint8

const (
	// Listed: the watch begins, or begins anew after the daemon was away; Event.All is all there is.
	Listed Change = iota + 1
	// Starting: its first process is there, and in its namespaces; its command has not run yet, or just now.
	Starting
	// Ended: its first process has ended.
	Ended
	// Removed: the container is gone. Only ID and Namespace are known.
	Removed
	// Away: containerd does not answer, and is asked again and again; Event.Why is for people. A Listed comes when it does.
	Away
)

// Event is a change.
type Event struct {
	Change    Change
	Container Container
	All       []Container
	Why       string
	// Handled has to be called when the event has been acted on, if it is not nil: the container's
	// command is held until then, for five seconds at the most.
	Handled func()
}

// How long a watch waits before it tries again: twice as long each time, up to the most.
const (
	firstPause = 100 * time.Millisecond
	mostPause  = 10 * time.Second
)

// filters are containerd's: one of these topics, in any namespace.
func filters() []string {
	return []string{`topic=="/tasks/create"`, `topic=="/tasks/start"`, `topic=="/tasks/exit"`, `topic=="/containers/delete"`}
}

// Watch tells of changes until ctx is done; then the channel is closed. First comes a
// Listed, and another one each time that containerd was away: nothing is missed, as the
// events are subscribed to before the list is asked for. Where there is none to be had, an Away comes
// first. Starts are held until they are handled, where the kernel and Options.Runtimes allow it.
func (f *Finder) Watch(ctx context.Context) <-chan Event {
	out := make(chan Event)
	go func() {
		defer close(out)
		var holding sync.WaitGroup
		defer holding.Wait()
		holding.Go(func() { f.hold(ctx, out) })
		pause, away, told := firstPause, false, false
		for ctx.Err() == nil {
			began := time.Now()
			listed, err := f.follow(ctx, out)
			if ctx.Err() != nil {
				return
			}
			if listed || !told {
				told = true
				send(ctx, out, Event{Change: Away, Why: f.away(err)})
			}
			if time.Since(began) > mostPause {
				pause, away = firstPause, false
			}
			if !away {
				f.opts.Log.Warn("containerd's events end: trying again", "socket", f.opts.Containerd, "error", err)
				away = true
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, mostPause)
		}
	}()
	return out
}

// hold tells of each start while it is held, until ctx is done.
func (f *Finder) hold(ctx context.Context, out chan<- Event) {
	if len(f.opts.Runtimes) == 0 {
		return
	}
	g, err := newGate(f.opts.Runtimes)
	if err != nil {
		f.opts.Log.Warn("the starts of containers are not held: one that connects at once may be missed on a busy host", "error", err)
		return
	}
	defer g.close()
	err = g.run(ctx, func(ctx context.Context, namespace, id string, pid int) {
		c, err := f.connect()
		if err != nil {
			return // not this containerd's
		}
		found, err := f.load(ctx, c, namespace, id)
		if err != nil {
			return
		}
		found.PID = pid
		handled := make(chan struct{})
		select {
		case out <- Event{Change: Starting, Container: found, Handled: sync.OnceFunc(func() { close(handled) })}:
		case <-ctx.Done():
			f.opts.Log.Warn("a container was started before it could be looked at", "container", id)
			return
		}
		select {
		case <-handled:
		case <-ctx.Done():
			f.opts.Log.Warn("a container was started before it was ready", "container", id)
		}
		if err := g.mark(); err != nil {
			f.opts.Log.Warn("a container runtime's starts are not held any more", "error", err)
		}
	})
	if ctx.Err() == nil {
		f.opts.Log.Error("the starts of containers are not held any more", "error", err)
	}
}

// away is why nothing is known of containers.
func (f *Finder) away(err error) string {
	return fmt.Sprintf("containerd at %s does not answer (%v)", f.opts.Containerd, f.plain(err))
}

func send(ctx context.Context, out chan<- Event, e Event) {
	select {
	case out <- e:
	case <-ctx.Done():
	}
}

// follow subscribes, lists and passes events on until the subscription ends. listed says whether it came to the list.
func (f *Finder) follow(ctx context.Context, out chan<- Event) (listed bool, err error) {
	c, err := f.connect()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	envelopes, errs := c.Subscribe(ctx, filters()...)
	all, err := f.everything(ctx)
	if err != nil {
		return false, err
	}
	send(ctx, out, Event{Change: Listed, All: all})
	f.opts.Log.Debug("containerd's events are followed", "socket", f.opts.Containerd)
	for {
		select {
		case envelope := <-envelopes:
			e, err := f.read(ctx, c, envelope)
			switch {
			case errors.Is(err, ErrNotFound):
			case err != nil:
				return true, err // begin anew with a list: an event was missed
			case e.Change != 0:
				send(ctx, out, e)
			}
		case err := <-errs:
			if err == nil {
				err = errors.New("the stream has ended")
			}
			return true, err
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// everything is containerd's list, with what Docker knows of it. Unlike what list gives
// it is never without containerd's part: from that others conclude that a container is gone.
func (f *Finder) everything(ctx context.Context) ([]Container, error) {
	ctx, cancel := context.WithTimeout(ctx, f.opts.Timeout)
	defer cancel()
	all, _, err := f.ofContainerd(ctx, "")
	if err != nil {
		return nil, err
	}
	theirs, err := f.ofDocker(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.opts.Log.Warn("Docker's names are not known", "socket", f.opts.Docker, "error", err)
	}
	return merge(all, theirs), nil
}

// read makes an event of containerd's one of ours; Change is 0 for what does not concern us.
func (f *Finder) read(ctx context.Context, c *client.Client, envelope *events.Envelope) (Event, error) {
	decoded, err := typeurl.UnmarshalAny(envelope.Event)
	if err != nil {
		return Event{}, fmt.Errorf("event %s: %w", envelope.Topic, err)
	}
	var e Event
	var id string
	pid := 0
	switch x := decoded.(type) {
	case *eventsapi.TaskCreate:
		e.Change, id, pid = Starting, x.ContainerID, int(x.Pid)
	case *eventsapi.TaskStart:
		e.Change, id, pid = Starting, x.ContainerID, int(x.Pid)
	case *eventsapi.TaskExit:
		if x.ID != x.ContainerID {
			return Event{}, nil // a command that was run in it
		}
		e.Change, id = Ended, x.ContainerID
	case *eventsapi.ContainerDelete:
		return Event{Change: Removed, Container: Container{ID: x.ID, Namespace: envelope.Namespace}}, nil
	default:
		return Event{}, nil
	}
	e.Container, err = f.load(ctx, c, envelope.Namespace, id)
	e.Container.PID = pid
	return e, err
}
