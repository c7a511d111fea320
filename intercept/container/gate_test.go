package container

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func FuzzCutEvent(f *testing.F) {
	f.Add([]byte{})
	f.Add(made24(24, unix.FANOTIFY_METADATA_VERSION))
	f.Add(append(made24(24, unix.FANOTIFY_METADATA_VERSION), made24(25, 1)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := cutEvent(b)
		if err == nil && len(rest) >= len(b) {
			t.Errorf("no progress: %+v of %d bytes, %d left", e, len(b), len(rest))
		}
	})
}

// made24 is an event about file descriptor 7 and process 4711.
func made24(length uint32, version byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, length)
	b = append(b, version, 0, 24, 0)
	b = binary.NativeEndian.AppendUint64(b, unix.FAN_OPEN_EXEC_PERM)
	b = binary.NativeEndian.AppendUint32(b, 7)
	return binary.NativeEndian.AppendUint32(b, 4711)
}

func TestCutEvent(t *testing.T) {
	t.Parallel()
	e, rest, err := cutEvent(append(made24(24, unix.FANOTIFY_METADATA_VERSION), 1, 2))
	if err != nil || e.fd != 7 || e.pid != 4711 || len(rest) != 2 {
		t.Errorf("%+v, %v, %v", e, rest, err)
	}
	for name, b := range map[string][]byte{
		"short": made24(24, unix.FANOTIFY_METADATA_VERSION)[:20], "too long": made24(32, unix.FANOTIFY_METADATA_VERSION),
		"another version": made24(24, 99), "no progress": made24(0, unix.FANOTIFY_METADATA_VERSION),
	} {
		if e, _, err := cutEvent(b); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestNewcomers(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), taskFolder, "k8s.io")
	write := func(id, text string, age time.Duration) {
		t.Helper()
		dir := filepath.Join(folder, id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, pidFile)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("sandbox", "11", 0)
	write("app", "12\n", 0)
	write("old", "13", time.Hour)
	write("broken", "x", 0)
	write("negative", "-1", 0)
	if err := os.Mkdir(filepath.Join(folder, "unmade"), 0o755); err != nil {
		t.Fatal(err)
	}
	in := func(dir string) int {
		t.Helper()
		cmd := exec.Command("sleep", "1000")
		cmd.Dir = dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd.Process.Pid
	}
	shim, person := in(filepath.Join(folder, "sandbox")), in(t.TempDir())
	g := &gate{owner: uint32(os.Geteuid()), seen: make(map[string]unix.Timespec)}
	if got := g.newcomers(person, time.Now()); len(got) != 0 {
		t.Errorf("of somebody who is no shim: %+v", got)
	}
	got := g.newcomers(shim, time.Now())
	if len(got) != 2 || got[0] != (newcomer{"k8s.io", "app", 12}) || got[1] != (newcomer{"k8s.io", "sandbox", 11}) {
		t.Errorf("newcomers: %+v", got)
	}
	if got := g.newcomers(shim, time.Now()); len(got) != 0 {
		t.Errorf("told again: %+v", got)
	}
	write("app", "14", 0)
	if got := g.newcomers(shim, time.Now()); len(got) != 1 || got[0].pid != 14 {
		t.Errorf("started again: %+v", got)
	}
	if got := g.newcomers(shim, time.Now().Add(time.Hour)); len(got) != 0 || len(g.seen) != 0 {
		t.Errorf("an hour later: %+v, and %d remembered", got, len(g.seen))
	}
	if got := g.newcomers(1<<30, time.Now()); len(got) != 0 {
		t.Errorf("of a process that is gone: %+v", strconv.Itoa(len(got)))
	}

	// What somebody else could have written names no container, and is not waited for.
	write("app", "15", 0)
	if err := errors.Join(unix.Mkfifo(filepath.Join(folder, "unmade", pidFile), 0o644), os.Chmod(folder, 0o777)); err != nil {
		t.Fatal(err)
	}
	if got := g.newcomers(shim, time.Now()); len(got) != 0 {
		t.Errorf("of a folder that others can write to: %+v", got)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	others := &gate{owner: g.owner + 1, seen: make(map[string]unix.Timespec)}
	if got := others.newcomers(shim, time.Now()); len(got) != 0 {
		t.Errorf("of another user: %+v", got)
	}
	if got := g.newcomers(shim, time.Now()); !slices.Contains(got, newcomer{"k8s.io", "app", 15}) || slices.ContainsFunc(got, func(c newcomer) bool { return c.id == "unmade" }) {
		t.Errorf("with a pipe beside it: %+v", got)
	}
}
