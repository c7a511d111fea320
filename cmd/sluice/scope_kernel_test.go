package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestKillInAScopeThatVanishes: once what a command left is dead the daemon may take the cgroup away, while the run
// still looks whether it is. That is no failure, which would be the run's exit status in place of the command's.
func TestKillInAScopeThatVanishes(t *testing.T) {
	t.Parallel()
	s := &scope{path: filepath.Join(kerneltest.Cgroup(t), "comes-and-goes")}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	churned := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			_ = os.Mkdir(s.path, 0o755)
			_ = os.Remove(s.path)
		}
		churned <- n
	}()
	for ctx.Err() == nil {
		if err := s.kill(); err != nil {
			t.Errorf("kill: %v", err)
			break
		}
	}
	cancel()
	if n := <-churned; n == 0 {
		t.Error("nothing was shown")
	}
}
