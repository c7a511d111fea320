package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/pool/store"
)

// stateOnSmallDisk moves the daemon's state to a disk of a few MiB of its own, and
// returns how to fill and to empty it.
func (h *house) stateOnSmallDisk() (fill, empty func()) {
	h.t.Helper()
	state := filepath.Join(h.dir, "state")
	h.daemon.kill()
	kept := filepath.Join(h.dir, "kept")
	if err := os.Rename(state, kept); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := unix.Mount("sluice-small", state, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		h.daemon.kill()
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			h.t.Error(err)
		}
	})
	if out, err := exec.Command("cp", "-a", kept+"/.", state).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	h.start()
	filler := filepath.Join(state, "filler")
	fill = func() {
		f, err := os.Create(filler)
		if err != nil {
			h.t.Fatal(err)
		}
		defer f.Close()
		for block := make([]byte, 4096); ; {
			if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
				return
			} else if err != nil {
				h.t.Fatal(err)
			}
		}
	}
	empty = func() {
		if err := os.Remove(filler); err != nil {
			h.t.Fatal(err)
		}
	}
	return fill, empty
}

// TestAFullDisk: agents go on while nothing can be stored, failing over and waiting as
// ever; it is said, and what happened meanwhile is in the log once there is room.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	fill, empty := h.stateOnSmallDisk()
	client := filepath.Join(h.dir, "soak-client")
	if err := os.Symlink(h.path, client); err != nil {
		t.Fatal(err)
	}
	agent := soakedPools[0]
	agent.sim = h.sim
	defer h.soakAgent(&agent, client)()
	ask := func(want int) {
		t.Helper()
		if status, _, _, err := agent.ask(); err != nil || status != want {
			t.Fatalf("answered %d, want %d: %v", status, want, err)
		}
	}
	ask(200)
	fill()
	h.spend("first")
	for range 5 {
		ask(200)
	}
	h.spend("second")
	before := h.sim.Journal().Last()
	for range 3 {
		ask(429)
	}
	h.seen(before, 1) // the refusal itself
	if got := h.sluice("", "pool", "status", "openai"); !strings.Contains(got, "exhausted") {
		t.Error(got)
	}
	if out, err := h.agent(nil, h.path, "run", "--user", "root", "--", "true").CombinedOutput(); err == nil || !strings.Contains(string(out), "is full") {
		t.Errorf("a new agent: %v: %s", err, out)
	}
	if got := h.daemon.log.String(); strings.Count(got, "the store refuses changes") != 1 {
		t.Errorf("not said once that nothing can be stored:\n%s", got)
	}
	empty()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(h.daemon.log.String(), "is written"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("there is room, and nothing is written")
		}
	}
	events := h.sluice("", "events")
	if strings.Count(events, "cred_failover") != 1 || strings.Count(events, "pool_exhausted") != 1 {
		t.Errorf("what happened meanwhile is not in the log, or twice: %s", events)
	}
	h.daemon.kill()
	h.start()
	before = h.sim.Journal().Last()
	ask(429)
	h.seen(before, 0)
	h.sluice("", "audit", "verify", "--state-dir", filepath.Join(h.dir, "state"))
}

// TestStartOnADiskThatTakesNothing: nor is anything lost of what is there.
func TestStartOnADiskThatTakesNothing(t *testing.T) {
	t.Parallel()
	kerneltest.Require(t)
	for options, want := range map[string]string{
		"size=64k,mode=0700": "mount it read-write", "size=64k,mode=0700,nr_inodes=1": "make room",
	} {
		dir := t.TempDir()
		if err := unix.Mount("sluice-small", dir, "tmpfs", 0, options); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		if strings.Contains(want, "read-write") {
			if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := store.Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %q", options, err, want)
		}
	}
}

// TestStartOnAFullDisk: whoever starts a daemon there, or restores a backup, is told that it is the disk.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	kerneltest.Require(t)
	dir := t.TempDir()
	if err := unix.Mount("sluice-small", dir, "tmpfs", 0, "size=8k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if _, err := store.Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "is full, and nothing can be stored: make room") {
		t.Errorf("%v", err)
	}
}
