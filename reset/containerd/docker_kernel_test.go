package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept/container"
	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// dockerLimit is how long dockerd may take to serve, or to end.
const dockerLimit = 60 * time.Second

// docker is a dockerd of the test's own, on the box's containerd.
type docker struct {
	t      *testing.T
	socket string
	log    string
}

func newDocker(t *testing.T, b *containerbox.Box) *docker {
	t.Helper()
	for _, name := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
				t.Fatalf("%s is not installed, scripts/deps.sh does it", name)
			}
			t.Skipf("%s is not installed, scripts/deps.sh does it", name)
		}
	}
	// Short, for the socket's sake.
	dir, err := os.MkdirTemp("", "dock")
	if err != nil {
		t.Fatal(err)
	}
	d := &docker{t: t, socket: filepath.Join(dir, "docker.sock"), log: filepath.Join(dir, "log")}
	log, err := os.Create(d.log)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dockerd", "--config-file", config, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"-p", filepath.Join(dir, "pid"), "-H", "unix://"+d.socket, "--containerd", b.Socket, "--cgroup-parent", "/"+b.Namespace+"/docker",
		"--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none", "-s", "overlay2")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := d.try("rm", "-f", "agent"); err != nil && !strings.Contains(out, "No such container") {
			t.Errorf("remove the container: %v: %s", err, out)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		insist := time.AfterFunc(dockerLimit, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		insist.Stop()
		if t.Failed() {
			text, _ := os.ReadFile(d.log)
			t.Logf("dockerd's log:\n%s", text)
		}
		_ = log.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind by dockerd: %v", err)
		}
	})
	for deadline := time.Now().Add(dockerLimit); ; time.Sleep(50 * time.Millisecond) {
		if out, err := d.try("version"); err == nil {
			return d
		} else if time.Now().After(deadline) {
			t.Fatalf("dockerd does not serve: %v: %s", err, out)
		}
	}
}

func (d *docker) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", "unix://" + d.socket}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(d.socket)}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *docker) run(args ...string) string {
	d.t.Helper()
	out, err := d.try(args...)
	if err != nil {
		d.t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestCommandInDocker runs commands in a container of Docker's, named as Docker does.
func TestCommandInDocker(t *testing.T) {
	b, _ := newBox(t)
	d := newDocker(t, b)
	tar := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(tar, b.Image, 0o600); err != nil {
		t.Fatal(err)
	}
	d.run("load", "-i", tar)
	d.run("run", "-d", "--name", "agent", "--network", "none", "-e", "OF=docker", containerbox.ImageName, "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done")

	finder := container.New(container.Options{Containerd: b.Socket, Docker: d.socket})
	t.Cleanup(func() { _ = finder.Close() })
	r := New(Options{Client: b.Client, FIFODir: filepath.Join(t.TempDir(), "fifo"), Find: func(ctx context.Context, ref string) (Found, error) {
		c, err := finder.Find(ctx, container.Query{Name: ref})
		return Found{Namespace: c.Namespace, ID: c.ID}, err
	}})
	env, err := r.Environment(t.Context(), "agent", containerbox.Agent)
	if err != nil || !strings.Contains(strings.Join(env, " "), "OF=docker") {
		t.Fatalf("%q, %v", env, err)
	}
	for i := range 10 {
		got, err := r.Exec(t.Context(), "agent", command("sh", "-c", fmt.Sprintf("id -u; grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status; exit %d", i)))
		text := strings.ReplaceAll(string(got.Output), "\t", " ")
		if err != nil || got.ExitCode != i || text != "10000\nCapBnd: 0000000000000000\nNoNewPrivs: 1\n" {
			t.Fatalf("%+v %q, %v", got, text, err)
		}
	}
	slow := command("sh", "-c", "trap '' TERM; setsid sleep 991 & sleep 992")
	slow.Timeout = 500 * time.Millisecond
	if got, err := r.Exec(t.Context(), "agent", slow); err != nil || !got.TimedOut {
		t.Errorf("%+v, %v", got, err)
	}
	if ps := d.run("top", "agent"); strings.Contains(ps, "sleep 99") {
		t.Errorf("left behind:\n%s", ps)
	}
	if _, err := r.Exec(t.Context(), "agent", command("no-such-command")); !errors.Is(err, reset.ErrNoCommand) {
		t.Error(err)
	}
	if left, err := os.ReadDir(r.opts.FIFODir); err != nil || len(left) > 0 {
		t.Errorf("FIFOs left: %v, %v", left, err)
	}
	d.run("restart", "-t", "2", "agent")
	if got, err := r.Exec(t.Context(), "agent", command("true")); err != nil || got.ExitCode != 0 {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	d.run("stop", "-t", "2", "agent")
	if _, err := r.Exec(t.Context(), "agent", command("true")); !errors.Is(err, reset.ErrNotRunning) && !errors.Is(err, reset.ErrNotFound) {
		t.Errorf("stopped: %v", err)
	}
}
