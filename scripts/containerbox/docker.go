package containerbox

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// dockerLimit is how long one step of Docker's may take on a busy machine.
const dockerLimit = 60 * time.Second

// Docker is a dockerd on the box's containerd. Its containers are in the namespace
// moby there, and their cgroups below the box's.
type Docker struct {
	Socket string
	box    *Box
	dir    string
}

// Docker starts a dockerd that has the box's image. At the end of the test its containers are
// removed and it ends.
func (b *Box) Docker() *Docker {
	b.t.Helper()
	for _, name := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
				b.t.Fatalf("%s is not installed, scripts/deps.sh does it", name)
			}
			b.t.Skipf("%s is not installed, scripts/deps.sh does it", name)
		}
	}
	dir, err := os.MkdirTemp("", "dock")
	if err != nil {
		b.t.Fatal(err)
	}
	d := &Docker{Socket: filepath.Join(dir, "docker.sock"), box: b, dir: dir}
	config, image := filepath.Join(dir, "daemon.json"), filepath.Join(dir, "image.tar")
	for path, body := range map[string][]byte{config: []byte("{}"), image: b.Image} {
		if err := os.WriteFile(path, body, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	cmd := exec.Command("dockerd", "--config-file", config, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "-p", filepath.Join(dir, "pid"), "-H", "unix://"+d.Socket,
		"--containerd", b.Socket, "--cgroup-parent", "/"+b.Namespace+"/docker", "-s", "overlay2", "--bridge=none",
		"--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	var said output
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("dockerd: %v", err)
	}
	b.t.Cleanup(func() {
		if ids, err := d.Try("ps", "-aq"); err == nil && strings.TrimSpace(ids) != "" {
			if out, err := d.Try(append([]string{"rm", "-f"}, strings.Fields(ids)...)...); err != nil {
				b.t.Errorf("remove Docker's containers: %v: %s", err, out)
			}
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		insist := time.AfterFunc(dockerLimit, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		insist.Stop()
		if b.t.Failed() {
			b.t.Logf("dockerd's log:\n%s", said.text.String())
		}
		// Containers on the host's network have it mounted there, and dockerd leaves it.
		_ = syscall.Unmount(filepath.Join(dir, "exec/netns/default"), syscall.MNT_DETACH)
		if err := os.RemoveAll(dir); err != nil {
			b.t.Errorf("left behind by dockerd: %v", err)
		}
	})
	for deadline := time.Now().Add(dockerLimit); ; time.Sleep(20 * time.Millisecond) {
		out, err := d.Try("version")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("dockerd does not serve: %v: %s", err, out)
		}
	}
	d.Run("load", "-i", image)
	return d
}

// Try runs the docker command and returns what it printed.
func (d *Docker) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", "unix://" + d.Socket}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Run is Try for what has to succeed.
func (d *Docker) Run(args ...string) string {
	d.box.t.Helper()
	out, err := d.Try(args...)
	if err != nil {
		d.box.t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}
