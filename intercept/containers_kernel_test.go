package intercept

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/container"
	"github.com/sluice-proxy/sluice/intercept/netns"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// dock is a bench with the real programs and a containerd.
type dock struct {
	*bench
	box     *containerbox.Box
	hooks   *bpf.Redirect
	docker  string
	t       *testing.T
	trusted *confidant
}

// confidant notes what it is told to make trusted. It is told by one goroutine at a time.
type confidant struct{ told chan string }

func (c *confidant) Install(_ context.Context, t Target, pid int) error {
	c.tell(fmt.Sprintf("install %s %d", t.ID, pid))
	return nil
}

func (c *confidant) Remove(_ context.Context, t Target) error {
	c.tell("remove " + t.ID)
	return nil
}

// tell keeps the first, which are enough for those who look.
func (c *confidant) tell(text string) {
	select {
	case c.told <- text:
	default:
	}
}

func newDock(t *testing.T) *dock {
	t.Helper()
	d := &dock{box: containerbox.New(t, containerbox.Options{}), docker: filepath.Join(t.TempDir(), "d.sock"), t: t}
	d.hooks = newRedirect(t)
	d.start(nil)
	return d
}

// start starts an interceptor, a second one with what the first remembered.
func (d *dock) start(before *bench) {
	d.t.Helper()
	finder := container.New(container.Options{Containerd: d.box.Socket, Docker: d.docker, Runtimes: container.DefaultRuntimes()})
	d.trusted = &confidant{told: make(chan string, 1024)}
	d.bench = newBench(d.t, func(b *bench, o *Options) {
		onKernel(d.t, d.hooks)(b, o)
		o.Containers, o.Trust, o.Idle, o.HelloTimeout = finder, d.trusted, 5*time.Second, 5*time.Second
		if before != nil {
			b.memory = before.memory
		}
	})
	stop := d.stop
	d.stop = func() {
		stop()
		if err := finder.Close(); err != nil {
			d.t.Error(err)
		}
	}
	d.t.Cleanup(d.stop)
}

// nothing checks that no program, no listener, no row and no target is left.
func (d *dock) nothing() {
	d.t.Helper()
	attached, err := d.hooks.Attachments()
	must(d.t, err)
	listeners, err := d.hooks.Listeners()
	must(d.t, err)
	if len(attached)+len(listeners)+d.memory.len()+len(d.Targets())+len(d.allSpaces()) != 0 {
		d.t.Errorf("left behind: %v attached, %v listeners, %d rows, %v, %d namespaces",
			attached, listeners, d.memory.len(), d.Targets(), len(d.allSpaces()))
	}
}

// greeter is an origin at addr:443 in a namespace that greets and closes.
func greeter(t *testing.T, path, addr string) {
	t.Helper()
	n, err := netns.Open(path)
	must(t, err)
	defer n.Close()
	l, err := n.Listen(t.Context(), "tcp4", addr+":443")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "reached")
			_ = c.CloseWrite()
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

// attached waits until a target is attached and returns it.
func (d *dock) attached(id string) Target {
	d.t.Helper()
	var found Target
	eventually(d.t, "target "+id+" is attached", func() bool {
		for _, t := range d.Targets() {
			if t.ID == id && t.State == StateAttached {
				found = t
				return true
			}
		}
		return false
	})
	return found
}

// connect is a command whose first and only action is a connect; it prints what it was told.
func connect(addr string) []string { return []string{"nc", addr, "443"} }

func TestContainerRefusalsLeaveNothing(t *testing.T) {
	d := newDock(t)
	c := d.box.Run("agent", containerbox.ContainerOptions{})
	d.box.Create("agency", containerbox.ContainerOptions{})
	for name, tt := range map[string]struct {
		r    Request
		want error
		says string
	}{
		"absent":    {Request{Kind: KindContainer, Container: "nobody"}, container.ErrNotFound, d.box.Socket},
		"ambiguous": {Request{Kind: KindContainer, Container: "agen"}, container.ErrAmbiguous, "agency"},
		"elsewhere": {Request{Kind: KindContainer, Container: "agent", Namespace: "other"}, container.ErrNotFound, "other"},
		"selector":  {Request{Kind: KindSelector, Selector: "agent"}, nil, "KEY=VALUE"},
	} {
		if _, err := d.Attach(t.Context(), tt.r); err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
		d.nothing()
	}
	d.memory.fail = errors.New("disk full")
	if _, err := d.Attach(t.Context(), Request{Kind: KindContainer, Container: "agent"}); !errors.Is(err, d.memory.fail) {
		t.Errorf("not remembered: %v", err)
	}
	d.nothing()
	d.memory.fail = nil
	by, err := d.Attach(t.Context(), Request{Kind: KindPID, PID: c.PID()})
	must(t, err)
	if again, err := d.Attach(t.Context(), Request{Kind: KindContainer, Container: "agent"}); err != nil || again.ID != by.ID {
		t.Errorf("attached by its process already: %+v, %v", again, err)
	}
	must(t, d.DetachAll(t.Context()))
	d.nothing()
}

func TestContainerRestarts(t *testing.T) {
	d := newDock(t)
	pair := kerneltest.NewPair(t)
	greeter(t, pair.Server, pair.ServerIP4)
	ask := func(c *containerbox.Container) {
		t.Helper()
		before := d.Counters().Spliced
		if said, code := c.Exec(0, connect(pair.ServerIP4)...); code != 0 || said != "reached\n" || d.Counters().Spliced != before+1 {
			t.Errorf("exit status %d, %q, %d connections came to us", code, said, d.Counters().Spliced-before)
		}
	}
	c := d.box.Run("agent", containerbox.ContainerOptions{NetNS: pair.Agent, ReadOnly: true})
	target, err := d.Attach(t.Context(), Request{Kind: KindContainer, Container: "agent"})
	must(t, err)
	if target.State != StateAttached || target.Cgroup != c.Cgroup() || target.ContainerID != "agent" || target.Namespace != d.box.Namespace {
		t.Errorf("attached: %+v", target)
	}
	if got := <-d.trusted.told; got != fmt.Sprintf("install %s %d", target.ID, c.PID()) {
		t.Errorf("trust was told %q", got)
	}
	ask(c)
	c.Stop()
	eventually(t, "waits", func() bool { return d.Targets()[0].State == StateWaiting })
	if left, err := d.hooks.Attachments(); err != nil || len(left) != 0 {
		t.Errorf("programs of a stopped container: %v, %v", left, err)
	}
	c.Start()
	d.attached(target.ID)
	ask(c)
	d.box.KillDaemon()
	ask(c2(d, c))
	c.Restart()
	d.attached(target.ID)
	ask(c)

	// The interceptor is away while the container is started again.
	before := d.bench
	d.stop()
	c.Restart()
	d.start(before)
	d.attached(target.ID)
	ask(c)
	must(t, d.Detach(t.Context(), target.ID))
	d.nothing()
	if said, code := c.Exec(0, connect(pair.ServerIP4)...); code != 0 || d.Counters().Spliced != 1 {
		t.Errorf("detached: %d %q", code, said)
	}
}

// c2 starts the box's containerd again, and gives the container back.
func c2(d *dock, c *containerbox.Container) *containerbox.Container {
	d.box.StartDaemon()
	return c
}

func TestContainerMadeAnewUnderItsName(t *testing.T) {
	d := newDock(t)
	named := containerbox.ContainerOptions{Labels: map[string]string{"nerdctl/name": "agent"}}
	first := d.box.Run("0123456789", named)
	target, err := d.Attach(t.Context(), Request{Kind: KindContainer, Container: "agent"})
	must(t, err)
	first.Remove()
	eventually(t, "waits", func() bool { return d.Targets()[0].State == StateWaiting })
	second := d.box.Run("9876543210", named)
	if now := d.attached(target.ID); now.Cgroup != second.Cgroup() || now.ContainerID != second.ID {
		t.Errorf("attached to %+v", now)
	}
	must(t, d.DetachAll(t.Context()))
	d.nothing()
}

// A selector without a containerd is remembered, and says that it finds nothing; it finds what there is when containerd comes.
func TestSelectorWithoutContainerd(t *testing.T) {
	box := containerbox.New(t, containerbox.Options{})
	socket := filepath.Join(t.TempDir(), "containerd.sock")
	finder := container.New(container.Options{Containerd: socket, Docker: filepath.Join(t.TempDir(), "d.sock")})
	defer finder.Close()
	b := newBench(t, func(b *bench, o *Options) { o.Containers = finder })
	defer b.stop()
	selector, err := b.Attach(t.Context(), Request{Kind: KindSelector, Selector: "app=agent"})
	must(t, err)
	for _, now := range []Target{selector, b.Targets()[0]} {
		if now.State != StateWatching || !strings.Contains(now.Reason, socket) || !strings.Contains(now.Reason, "[containers]") {
			t.Errorf("%s, %q", now.State, now.Reason)
		}
	}
	must(t, os.Symlink(box.Socket, socket))
	eventually(t, "it is watched", func() bool { return b.Targets()[0].Reason == "" })
	box.KillDaemon()
	eventually(t, "it is not watched any more", func() bool { return b.Targets()[0].Reason != "" })
	must(t, b.Detach(t.Context(), selector.ID))
}

func TestSelector(t *testing.T) {
	d := newDock(t)
	wanted := containerbox.ContainerOptions{Labels: map[string]string{"app": "agent"}}
	running := d.box.Run("one", wanted)
	d.box.Run("other", containerbox.ContainerOptions{Labels: map[string]string{"app": "else"}})
	selector, err := d.Attach(t.Context(), Request{Kind: KindSelector, Selector: "app=agent"})
	must(t, err)
	if selector.State != StateWatching || selector.Selector != "app=agent" {
		t.Errorf("selector: %+v", selector)
	}
	of := func(c *containerbox.Container) (found Target) {
		t.Helper()
		eventually(t, c.ID+" is attached", func() bool {
			for _, x := range d.Targets() {
				if x.ContainerID == c.ID && x.State == StateAttached {
					found = x
				}
			}
			return found.ID != ""
		})
		return found
	}
	child := of(running)
	if child.Parent != selector.ID || child.Selector != "app=agent" {
		t.Errorf("its container: %+v", child)
	}
	if err := d.Detach(t.Context(), child.ID); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), selector.ID) {
		t.Errorf("detach of a selector's container: %v", err)
	}
	two := d.box.Run("two", wanted)
	of(two)

	// It is remembered, and so are its containers: one goes and another comes meanwhile.
	before := d.bench
	d.stop()
	two.Remove()
	three := d.box.Run("three", wanted)
	d.start(before)
	of(three)
	eventually(t, "the removed one is forgotten", func() bool { return len(d.Targets()) == 3 })
	three.Remove()
	eventually(t, "the next removed one is forgotten", func() bool { return len(d.Targets()) == 2 })
	must(t, d.Detach(t.Context(), selector.ID))
	d.nothing()
	if _, err := os.Stat(running.Cgroup()); err != nil {
		t.Error(err)
	}
}
