package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A daemon that is stopped has waited for everything it started: it runs within the
// test, so that what stays behind would be seen.
func TestADaemonLeavesNoGoroutine(t *testing.T) {
	kerneltest.Require(t)
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	cfg := defaultConfig()
	cfg.StateDir, cfg.Socket = filepath.Join(dir, "state"), filepath.Join(dir, "s.sock")
	cfg.PinDir = filepath.Join(kerneltest.BPFFS(t), "sluice")
	cfg.DrainTime = time.Second
	for range 2 { // the second takes over what the first left
		var log lockedBuffer
		e := defaultEnv()
		e.stderr = &log
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- serve(ctx, cfg, func() (config, error) { return cfg, nil }, e) }()
		for !strings.Contains(log.String(), "listening") && t.Context().Err() == nil && len(done) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("%v\n%s", err, log.String())
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the daemon does not stop\n%s", log.String())
		}
	}
	goleak.VerifyNone(t, before)
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) })
	var core unix.Rlimit
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("a daemon is dumpable: %d, %v", dumpable, err)
	}
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core != (unix.Rlimit{Cur: 1, Max: 1}) {
		t.Errorf("a daemon may dump core: %+v, %v", core, err)
	}
}
