package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestCgroupsOfKilledRunsAreCleared leaves what a run and its daemon leave that are
// both killed, beside what must stay.
func TestCgroupsOfKilledRunsAreCleared(t *testing.T) {
	t.Parallel()
	kerneltest.Require(t)
	parent := kerneltest.Cgroup(t)
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	left := fmt.Sprintf("run-%d-01234567", ended.Process.Pid)
	begun := fmt.Sprintf("run-%d-01234567", os.Getpid())
	orphaned := fmt.Sprintf("run-%d-89abcdef", ended.Process.Pid)
	for _, name := range []string{left, left + "/child", begun, orphaned, "run-else", "other"} {
		if err := os.Mkdir(filepath.Join(parent, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	orphan := kerneltest.Command(t, filepath.Join(parent, orphaned), []string{"PATH=" + os.Getenv("PATH")}, "sleep", "60")
	if err := kerneltest.Start(orphan, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = orphan.Process.Kill(); _ = orphan.Wait() }()

	r := newReaper(slog.New(slog.DiscardHandler))
	r.clear(parent)
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{left: false, begun: true, orphaned: true, "run-else": true, "other": true} {
		if _, err := os.Stat(filepath.Join(parent, name)); (err == nil) != stays {
			t.Errorf("%s: %v, want it to stay: %t", name, err, stays)
		}
	}
}
