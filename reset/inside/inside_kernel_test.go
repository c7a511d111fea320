package inside

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// jailed is a process whose root is a directory with hostile files in it.
func jailed(t *testing.T) (pid int, root string) {
	t.Helper()
	kerneltest.Require(t)
	root = t.TempDir()
	for name, link := range map[string]string{"absolute": "/etc/real", "up": "../../../../../../etc/real", "out": "/etc/shadow", "loop": "loop", "magic": "/proc/1/root/etc/passwd"} {
		if err := os.Symlink(link, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"etc/real": "inside", "etc/long": "0123456789"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	copyFile(t, "/bin/busybox", filepath.Join(root, "busybox"))
	cmd := kerneltest.Command(t, "", []string{"MARK=1", "EMPTY="}, "/busybox", "sleep", "1000")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid, root
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreReadInsideTheRoot(t *testing.T) {
	pid, _ := jailed(t)
	for path, want := range map[string]string{"/etc/real": "inside", "etc/real": "inside", "/absolute": "inside", "/up": "inside", "//etc/../../etc/real": "inside"} {
		if text, err := ReadFile(pid, path, 100); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
	for _, path := range []string{"/out", "/etc/passwd", "/magic"} { // the host has all of them
		if text, err := ReadFile(pid, path, 1<<20); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
	for _, path := range []string{"/fifo", "/etc", "/loop", "/"} {
		if text, err := ReadFile(pid, path, 100); err == nil {
			t.Errorf("%s: read %q", path, text)
		}
	}
	if text, err := ReadFile(pid, "/etc/long", 10); err != nil || len(text) != 10 {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := ReadFile(pid, "/etc/long", 9); err == nil {
		t.Error("more than the limit")
	}
}

func TestWhoAProcessIs(t *testing.T) {
	pid, _ := jailed(t)
	if env, err := Environment(pid); err != nil || len(env) != 4 || env[2] != "MARK=1" || env[3] != "EMPTY=" {
		t.Errorf("%q, %v", env, err)
	}
	if uid, err := Owner(pid); err != nil || uid != 0 {
		t.Errorf("%d, %v", uid, err)
	}
}

// TestMarkedAreKilled, children that left the session included, and nobody else.
func TestMarkedAreKilled(t *testing.T) {
	cgroup := kerneltest.Cgroup(t)
	start := func(env string, argv ...string) *os.Process {
		cmd := kerneltest.Command(t, cgroup, []string{env}, argv...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() })
		return cmd.Process
	}
	other := start("MARK=2", "sleep", "1000")
	t.Cleanup(func() { _ = other.Kill() })
	start("MARK=1", "sh", "-c", "setsid -f sleep 1000; trap '' TERM; sleep 1000")
	if err := KillMarked(cgroup, "MARK", func(value string, _ uint64) bool { return value == "1" }); err != nil {
		t.Fatal(err)
	}
	pids, err := Processes(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if env, err := Environment(pid); err == nil && len(env) > 0 && pid != other.Pid {
			t.Errorf("%d is left: %q", pid, env)
		}
	}
	if err := other.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("another process was killed: %v", err)
	}
	if _, err := Processes(cgroup + "-gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestKillAllInACgroupThatVanishes: a runtime that ends the container takes its cgroups away meanwhile, with those of a reset.
func TestKillAllInACgroupThatVanishes(t *testing.T) {
	dir := filepath.Join(kerneltest.Cgroup(t), "comes-and-goes")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	churned := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			_ = os.Mkdir(dir, 0o755)
			_ = os.Remove(dir)
		}
		churned <- n
	}()
	for ctx.Err() == nil {
		if err := KillAll(dir); err != nil {
			t.Error(err)
			break
		}
	}
	cancel()
	if n := <-churned; n == 0 {
		t.Error("nothing was shown")
	}
}
