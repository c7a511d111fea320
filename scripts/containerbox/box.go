// Package containerbox gives tests a real containerd of their own, with runc and an image that is built on the spot.
//
// Everything is the box's own: containerd's root, state and socket, its namespace, and the cgroups. What containerd
// shares with others all the same (runc's state, the shims' sockets) is kept apart by the namespace's name.
package containerbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// Fetch is where the image has the HTTPS client of scripts/containerbox/fetch.
const Fetch = "/usr/bin/fetch"

// limit is how long one step of containerd's may take on a busy machine.
const limit = 30 * time.Second

// sequence tells the boxes of one test process apart.
var sequence atomic.Int64

// Options say what a box has. The zero value is an image with busybox and fetch.
type Options struct {
	// Programs are Go commands that the image has besides, by their path in it:
	// {"/usr/bin/hermes": "github.com/sluice-proxy/sluice/scripts/containerbox/hermes"}.
	Programs map[string]string
	// Files are further files of the image, by their path in it.
	Files map[string]File
	// Namespace is containerd's; "" = one that no other box has.
	Namespace string
	// Kubernetes has containerd serve kubelet too, for Pod.
	Kubernetes bool
}

// Box is a running containerd and what it needs.
type Box struct {
	t         testing.TB
	dir       string
	daemon    *exec.Cmd
	log       *os.File
	Socket    string         // containerd's
	Namespace string         // containerd's, where the image and the containers are
	Client    *client.Client // in that namespace
	Image     []byte         // the image as a tar that `ctr images import` and `docker load` take

	kubernetes bool
	pods       []*Pod
}

// New starts a containerd for the test. At its end every container is removed, containerd ends, and
// the test fails if anything is left.
func New(t testing.TB, o Options) *Box {
	t.Helper()
	kerneltest.Require(t)
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc", "busybox"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
				t.Fatalf("%s is not installed, scripts/deps.sh does it", name)
			}
			t.Skipf("%s is not installed, scripts/deps.sh does it", name)
		}
	}
	// Short, for the sockets' sake: a test's own directory has the test's name in it.
	dir, err := os.MkdirTemp("", "box")
	if err != nil {
		t.Fatal(err)
	}
	b := &Box{t: t, dir: dir, Socket: filepath.Join(dir, "containerd.sock"), Namespace: o.Namespace, kubernetes: o.Kubernetes}
	if b.Namespace == "" {
		b.Namespace = fmt.Sprintf("box%d-%d", os.Getpid(), sequence.Add(1))
	}
	t.Cleanup(b.close)
	if b.Image, err = o.Pack(dir); err != nil {
		t.Fatal(err)
	}
	if b.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	b.StartDaemon()
	if b.Client, err = client.New(b.Socket, client.WithDefaultNamespace(b.Namespace), client.WithTimeout(limit)); err != nil {
		t.Fatalf("containerd: %v", err)
	}
	b.load()
	return b
}

// Pack makes the image: a tar that `ctr images import` and `docker load` take. What it compiles, it compiles in dir.
func (o Options) Pack(dir string) ([]byte, error) {
	files := make(map[string]File)
	programs := map[string]string{Fetch: "github.com/sluice-proxy/sluice/scripts/containerbox/fetch"}
	for path, pkg := range o.Programs {
		programs[path] = pkg
	}
	for path, pkg := range programs {
		body, err := compile(dir, pkg)
		if err != nil {
			return nil, err
		}
		files[path] = File{Body: body, Mode: 0o755}
	}
	for path, f := range o.Files {
		files[path] = f
	}
	l, err := layer(files)
	if err != nil {
		return nil, err
	}
	return image(l)
}

// context is for one step of containerd's, in the box's namespace.
func (b *Box) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(namespaces.WithNamespace(context.Background(), b.Namespace), limit)
}

func (b *Box) load() {
	b.t.Helper()
	ctx, cancel := b.context()
	defer cancel()
	if _, err := b.Client.Import(ctx, bytes.NewReader(b.Image)); err != nil {
		b.t.Fatalf("import the image: %v", err)
	}
}

// StartDaemon starts containerd, again after StopDaemon or KillDaemon.
func (b *Box) StartDaemon() {
	b.t.Helper()
	config := filepath.Join(b.dir, "config.toml")
	text := fmt.Sprintf(`version = 2
root = %q
state = %q
oom_score = 0
disabled_plugins = [%s"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[ttrpc]
  address = %q
%s`, filepath.Join(b.dir, "root"), filepath.Join(b.dir, "state"), b.criDisabled(), b.Socket, b.Socket+".ttrpc", b.criConfig())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	// A parent-death signal would be wrong: it is sent when the thread ends that started the
	// process, and tests of namespaces give threads up.
	cmd := exec.Command("containerd", "--config", config)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("containerd: %v", err)
	}
	b.daemon = cmd
	probe, err := client.New(b.Socket, client.WithTimeout(limit))
	if err != nil {
		b.t.Fatalf("containerd: %v", err)
	}
	defer probe.Close()
	ctx, cancel := b.context()
	defer cancel()
	for {
		if up, err := probe.IsServing(ctx); err == nil && up {
			return
		}
		select {
		case <-ctx.Done():
			b.t.Fatalf("containerd does not serve:\n%s", b.Log())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// StopDaemon ends containerd; its containers run on.
func (b *Box) StopDaemon() { b.end(syscall.SIGTERM) }

// KillDaemon ends containerd as a crash does; its containers run on.
func (b *Box) KillDaemon() { b.end(syscall.SIGKILL) }

func (b *Box) end(signal os.Signal) {
	b.t.Helper()
	if b.daemon == nil {
		return
	}
	if err := b.daemon.Process.Signal(signal); err != nil {
		b.t.Errorf("containerd: %v", err)
	}
	insist := time.AfterFunc(limit, func() { _ = b.daemon.Process.Kill() })
	defer insist.Stop()
	var exit *exec.ExitError
	if err := b.daemon.Wait(); err != nil && !errors.As(err, &exit) {
		b.t.Errorf("containerd: %v", err)
	}
	b.daemon = nil
}

// Log is what containerd has said.
func (b *Box) Log() string {
	text, err := os.ReadFile(filepath.Join(b.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// close takes everything away: containers before containerd, whose shims would stay.
func (b *Box) close() {
	if b.Client != nil {
		if b.daemon == nil {
			b.StartDaemon()
		}
		b.removePods()
		b.removeAll()
		if err := b.Client.Close(); err != nil {
			b.t.Errorf("containerd's client: %v", err)
		}
	}
	b.end(syscall.SIGTERM)
	if b.log != nil {
		_ = b.log.Close()
	}
	if b.t.Failed() {
		b.t.Logf("containerd's log:\n%s", b.Log())
	}
	b.sweep()
}

func (b *Box) removeAll() {
	ctx, cancel := b.context()
	defer cancel()
	all, err := b.Client.Containers(ctx)
	if err != nil {
		b.t.Errorf("list the containers that are left: %v", err)
	}
	for _, c := range all {
		if err := remove(ctx, c); err != nil {
			b.t.Errorf("remove container %s: %v", c.ID(), err)
		}
	}
}

// sweep removes what containerd leaves: cgroups, in every hierarchy that there is, and directories.
func (b *Box) sweep() {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		b.t.Error(err)
	}
	for line := range strings.Lines(string(info)) {
		mounted, kind, _ := strings.Cut(line, " - ")
		fields := strings.Fields(mounted)
		switch {
		case len(fields) < 5:
		case strings.HasPrefix(kind, "cgroup ") || strings.HasPrefix(kind, "cgroup2 "):
			if err := kerneltest.RemoveCgroup(filepath.Join(fields[4], b.Namespace)); err != nil {
				b.t.Errorf("remove cgroup: %v", err)
			}
		case strings.HasPrefix(fields[4], b.dir+"/"):
			b.t.Errorf("still mounted: %s", fields[4])
			_ = syscall.Unmount(fields[4], 2) // MNT_DETACH
		}
	}
	for _, dir := range []string{b.dir, "/run/containerd/runc/" + b.Namespace, "/run/containerd/fifo/" + b.Namespace} {
		if err := os.RemoveAll(dir); err != nil {
			b.t.Errorf("remove: %v", err)
		}
	}
}
