package containerbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ContainerOptions say how a container is. The zero value sleeps on the host's network.
type ContainerOptions struct {
	Args        []string          // nil = one that ends on SIGTERM and not before
	Env         []string          // added to PATH and HOME
	Labels      map[string]string // containerd's
	NetNS       string            // a network namespace's path; "" = the host's
	Hosts       string            // its /etc/hosts; "" = the image's
	Mounts      map[string]string // files of the host's, read-only, by their path inside
	ReadOnly    bool              // of its root; /tmp can be written to
	Snapshotter string            // "overlayfs" (also "") or "native"
	Parent      string            // of its cgroup, below the box's own; "" = the box's own
	UID         uint32            // and group
	Spec        []oci.SpecOpts    // whatever else its specification is to say, last
}

// Deaf is a command that ignores SIGTERM.
func Deaf() []string { return []string{"sh", "-c", "trap '' TERM; while :; do sleep 1; done"} }

// waiting is a command that ends on SIGTERM.
func waiting() []string {
	return []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"}
}

// Container is one of the box's containers. It is not for more than one goroutine, but for Output.
type Container struct {
	ID string

	box  *Box
	c    client.Container
	task client.Task
	out  output
}

// output is what a container has printed, over all its starts.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// Create makes a container, which does not run yet.
func (b *Box) Create(id string, o ContainerOptions) *Container {
	b.t.Helper()
	ctx, cancel := b.context()
	defer cancel()
	snapshotter := o.Snapshotter
	if snapshotter == "" {
		snapshotter = "overlayfs"
	}
	image, err := b.Client.GetImage(ctx, ImageName)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := image.Unpack(ctx, snapshotter); err != nil {
		b.t.Fatalf("unpack with %s: %v", snapshotter, err)
	}
	spec, err := b.spec(id, o)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := b.Client.NewContainer(ctx, id, client.WithImage(image), client.WithSnapshotter(snapshotter),
		client.WithNewSnapshot(id, image), client.WithContainerLabels(o.Labels), client.WithNewSpec(spec...))
	if err != nil {
		b.t.Fatalf("container %s: %v", id, err)
	}
	return &Container{ID: id, box: b, c: c}
}

func (b *Box) spec(id string, o ContainerOptions) ([]oci.SpecOpts, error) {
	args := o.Args
	if args == nil {
		args = waiting()
	}
	mounts := []specs.Mount{{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}}}
	bind := func(from, to string) {
		mounts = append(mounts, specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"bind", "ro"}})
	}
	for to, from := range o.Mounts {
		bind(from, to)
	}
	if o.Hosts != "" {
		file := filepath.Join(b.dir, "hosts-"+id)
		if err := os.WriteFile(file, []byte(o.Hosts), 0o644); err != nil {
			return nil, err
		}
		bind(file, "/etc/hosts")
	}
	spec := []oci.SpecOpts{
		oci.WithDefaultSpec(), oci.WithProcessArgs(args...), oci.WithProcessCwd("/"), oci.WithUIDGID(o.UID, o.UID),
		oci.WithEnv(append(environment(), o.Env...)), oci.WithMounts(mounts),
		oci.WithCgroup(path.Join("/", b.Namespace, o.Parent, id)),
	}
	if o.ReadOnly {
		spec = append(spec, oci.WithRootFSReadonly())
	}
	network := oci.WithHostNamespace(specs.NetworkNamespace)
	if o.NetNS != "" {
		network = oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: o.NetNS})
	}
	return append(append(spec, network), o.Spec...), nil
}

// Run makes a container and starts it.
func (b *Box) Run(id string, o ContainerOptions) *Container {
	b.t.Helper()
	c := b.Create(id, o)
	c.Start()
	return c
}

// Prepare makes the container's cgroup and its first process, which has not run
// the command yet.
func (c *Container) Prepare() {
	c.box.t.Helper()
	ctx, cancel := c.box.context()
	defer cancel()
	streams := cio.NewCreator(cio.WithStreams(nil, &c.out, &c.out), cio.WithFIFODir(filepath.Join(c.box.dir, "fifo")))
	task, err := c.c.NewTask(ctx, streams)
	if err != nil {
		c.box.t.Fatalf("start %s: %v", c.ID, err)
	}
	c.task = task
}

// Start starts the container, or what Prepare prepared.
func (c *Container) Start() {
	c.box.t.Helper()
	if c.task == nil {
		c.Prepare()
	}
	ctx, cancel := c.box.context()
	defer cancel()
	if err := c.task.Start(ctx); err != nil {
		c.box.t.Fatalf("start %s: %v", c.ID, err)
	}
}

// Wait waits until the container's command has ended and returns its exit status.
func (c *Container) Wait() int {
	c.box.t.Helper()
	ctx, cancel := c.box.context()
	defer cancel()
	ended, err := c.task.Wait(ctx)
	if err != nil {
		c.box.t.Fatalf("wait for %s: %v", c.ID, err)
	}
	status := <-ended
	code, _, err := status.Result()
	if err != nil {
		c.box.t.Fatalf("wait for %s: %v", c.ID, err)
	}
	return int(code)
}

// Stop ends the container's command: SIGTERM, SIGKILL after two seconds. The container can be started again.
func (c *Container) Stop() {
	c.box.t.Helper()
	ctx, cancel := c.box.context()
	defer cancel()
	if err := stop(ctx, c.task); err != nil {
		c.box.t.Fatalf("stop %s: %v", c.ID, err)
	}
	c.task = nil
}

// Restart stops the container and starts it again; its cgroup is a new one then.
func (c *Container) Restart() {
	c.box.t.Helper()
	c.Stop()
	c.Start()
}

// Remove stops and removes the container.
func (c *Container) Remove() {
	c.box.t.Helper()
	ctx, cancel := c.box.context()
	defer cancel()
	if err := remove(ctx, c.c); err != nil {
		c.box.t.Fatalf("remove %s: %v", c.ID, err)
	}
	c.task = nil
}

// PID is the container's first process.
func (c *Container) PID() int { return int(c.task.Pid()) }

// Cgroup is the container's directory in cgroup v2's tree.
func (c *Container) Cgroup() string {
	c.box.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.PID()))
	if err != nil {
		c.box.t.Fatal(err)
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		c.box.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		below, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for mount := range strings.Lines(string(info)) {
			mounted, kind, _ := strings.Cut(mount, " - ")
			if fields := strings.Fields(mounted); v2 && strings.HasPrefix(kind, "cgroup2 ") && fields[3] == "/" {
				return filepath.Join(fields[4], below)
			}
		}
	}
	c.box.t.Fatalf("%s is in no cgroup of version 2: %s", c.ID, text)
	return ""
}

// Output is what the container's command has printed, over all its starts; what has
// been printed just now may not be in it yet.
func (c *Container) Output() string {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return c.out.text.String()
}

// Exec runs a command in the container as user and group uid, with the container's
// environment, and returns what it printed and its exit status.
func (c *Container) Exec(uid uint32, argv ...string) (string, int) {
	c.box.t.Helper()
	ctx, cancel := c.box.context()
	defer cancel()
	said, code, err := c.exec(ctx, uid, argv)
	if err != nil {
		c.box.t.Fatalf("exec %q in %s: %v", argv, c.ID, err)
	}
	return said, code
}

func (c *Container) exec(ctx context.Context, uid uint32, argv []string) (said string, code int, err error) {
	spec, err := c.c.Spec(ctx)
	if err != nil {
		return "", 0, err
	}
	p := *spec.Process
	p.Args, p.User = argv, specs.User{UID: uid, GID: uid}
	var out output
	streams := cio.NewCreator(cio.WithStreams(nil, &out, &out), cio.WithFIFODir(filepath.Join(c.box.dir, "fifo")))
	process, err := c.task.Exec(ctx, fmt.Sprintf("box%d", sequence.Add(1)), &p, streams)
	if err != nil {
		return "", 0, err
	}
	defer func() {
		if _, gone := process.Delete(ctx); gone != nil && !errdefs.IsNotFound(gone) {
			err = errors.Join(err, gone)
		}
	}()
	ended, err := process.Wait(ctx)
	if err != nil {
		return "", 0, err
	}
	if err := process.Start(ctx); err != nil {
		return "", 0, err
	}
	status := <-ended
	exit, _, err := status.Result()
	// The command's last words are still on their way when it has ended.
	drained := make(chan struct{})
	go func() {
		process.IO().Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(5 * time.Second): // something it left behind has its output open
		process.IO().Cancel()
		<-drained
	}
	return out.text.String(), int(exit), err
}

func remove(ctx context.Context, c client.Container) error {
	task, err := c.Task(ctx, nil)
	if err == nil {
		err = stop(ctx, task)
	} else if errdefs.IsNotFound(err) {
		err = nil
	}
	return errors.Join(err, c.Delete(ctx, client.WithSnapshotCleanup))
}

func stop(ctx context.Context, task client.Task) error {
	ended, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := task.Kill(ctx, signal, client.WithKillAll); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		select {
		case <-ended:
			_, err := task.Delete(ctx)
			return err
		case <-time.After(2 * time.Second):
		}
	}
	_, err = task.Delete(ctx, client.WithProcessKill)
	return err
}
