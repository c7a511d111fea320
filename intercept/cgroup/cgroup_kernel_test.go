package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// makeCgroup makes a cgroup for the test; it skips for want of root or cgroup v2, which
// SLUICE_KERNEL_TESTS=require turns into a failure.
func makeCgroup(t *testing.T) string {
	t.Helper()
	mount, err := Mount()
	if err == nil {
		var dir string
		if dir, err = os.MkdirTemp(mount, "sluice-test-"); err == nil {
			t.Cleanup(func() { removeAll(dir) })
			return dir
		}
	}
	if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
		t.Fatalf("needs root and cgroup v2: %v", err)
	}
	t.Skipf("needs root and cgroup v2: %v", err)
	return ""
}

// removeAll removes a cgroup and those below it; the last process of one may take a
// moment to leave.
func removeAll(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeAll(filepath.Join(dir, e.Name()))
		}
	}
	for begin := time.Now(); time.Since(begin) < 2*time.Second; {
		if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// start runs a process inside the cgroup that lives until the function is called.
func start(t *testing.T, dir string) (pid int, stop func()) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var stopped bool
	stop = func() {
		if !stopped {
			stopped = true
			in.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(stop)
	return cmd.Process.Pid, stop
}

func TestIDPathAndPIDAgree(t *testing.T) {
	dir := makeCgroup(t)
	child := filepath.Join(dir, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	pid, _ := start(t, child)
	if got, err := OfPID(pid); got != child || err != nil {
		t.Errorf("OfPID is %q, %v; want %q", got, err, child)
	}
	id, err := ID(child)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := PathOf(id); got != child || err != nil {
		t.Errorf("PathOf(%d) is %q, %v; want %q", id, got, err, child)
	}
	if pids, err := Processes(dir); err != nil || len(pids) != 1 || pids[0] != pid {
		t.Errorf("Processes is %v, %v; want %d", pids, err, pid)
	}
}

func TestRemovedCgroup(t *testing.T) {
	dir := makeCgroup(t)
	id, err := ID(dir)
	if err != nil {
		t.Fatal(err)
	}
	removeAll(dir)
	if _, err := PathOf(id); !errors.Is(err, ErrGone) {
		t.Errorf("PathOf: %v", err)
	}
	if _, err := ID(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ID: %v", err)
	}
	if _, err := Processes(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Processes: %v", err)
	}
	if _, err := Watch(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Watch: %v", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if again, err := ID(dir); err != nil || again == id {
		t.Errorf("made again it is %d as before, %v", again, err)
	}
}

func TestValidate(t *testing.T) {
	dir := makeCgroup(t)
	mount, _ := Mount()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	child := filepath.Join(dir, "own")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		path string
		own  string
		want error
		says string
	}{
		"good":              {dir, mount, nil, ""},
		"a symbolic link":   {link, mount, nil, ""},
		"absent":            {dir + "-absent", mount, fs.ErrNotExist, "no such file"},
		"relative":          {"agent", mount, ErrNotCgroup, "absolute path"},
		"a zero byte":       {"/a\x00b", mount, ErrNotCgroup, "invalid argument"},
		"over-long":         {"/" + strings.Repeat("x", 300), mount, ErrNotCgroup, "too long"},
		"below a file":      {"/etc/passwd/x", mount, ErrNotCgroup, "not a directory"},
		"links in a loop":   {loop, mount, ErrNotCgroup, "too many"},
		"no cgroup":         {t.TempDir(), mount, ErrNotCgroup, "below " + mount},
		"a file of one":     {filepath.Join(dir, "cgroup.procs"), mount, ErrNotCgroup, "give its folder"},
		"the root":          {mount, mount, ErrOwn, "sluice itself"},
		"sluice's own":      {child, child, ErrOwn, "sluice itself"},
		"above sluice":      {dir, child, ErrOwn, "sluice itself"},
		"beside sluice":     {child, dir, nil, ""},
		"a name's beginner": {dir, dir + "x", nil, ""},
	}
	if v1 := filepath.Join(filepath.Dir(mount), "memory"); isV1(v1) {
		cases["version 1"] = struct {
			path string
			own  string
			want error
			says string
		}{v1, mount, ErrVersion1, "below " + mount}
	}
	for name, c := range cases {
		got, err := validate(c.path, mount, c.own)
		if c.says == "" {
			if err != nil || (got != dir && got != child) {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Validate(mount); !errors.Is(err, ErrOwn) {
		t.Errorf("the root: %v", err)
	}
}

func isV1(path string) bool {
	_, err := os.Stat(filepath.Join(path, "tasks"))
	return err == nil
}

func expect(t *testing.T, events <-chan Event, want Event) {
	t.Helper()
	select {
	case got, ok := <-events:
		if !ok || got != want {
			t.Fatalf("event %v (open %t), want %v", got, ok, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("no event, want %v", want)
	}
}

func TestWatch(t *testing.T) {
	dir := makeCgroup(t)
	child := filepath.Join(dir, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	events, err := Watch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Empty)
	_, stop := start(t, child)
	expect(t, events, Populated)
	stop()
	expect(t, events, Empty)
	removeAll(dir)
	expect(t, events, Removed)
	if _, open := <-events; open {
		t.Error("the channel is open after Removed")
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	dir := makeCgroup(t)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := Watch(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, events, Empty)
	cancel()
	select {
	case _, open := <-events:
		if open {
			t.Error("an event after the end")
		}
	case <-time.After(5 * time.Second):
		t.Error("the watch does not end")
	}
}

func TestAppear(t *testing.T) {
	dir := makeCgroup(t)
	path := filepath.Join(dir, "a", "b", "c")
	done := make(chan error, 1)
	go func() { done <- Appear(t.Context(), path) }()
	for _, step := range []string{"a", "a/b", "a/b/c"} {
		select {
		case err := <-done:
			t.Fatalf("%s: appeared too early: %v", step, err)
		default:
		}
		if err := os.Mkdir(filepath.Join(dir, step), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("not seen")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- Appear(ctx, path+"/never") }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestOfPIDWithoutProcess(t *testing.T) {
	t.Parallel()
	if _, err := OfPID(1 << 30); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNotMounted) {
		t.Errorf("%s: %v", strconv.Itoa(1<<30), err)
	}
}

// TestProcessesOfAVanishingCgroup lists a cgroup that comes and goes: between open and read
// the kernel answers ENODEV, which is as good as "it does not exist".
// TestProcessesBesideDeepCgroups: those that can be reached are found, however deep somebody else has made some.
func TestProcessesBesideDeepCgroups(t *testing.T) {
	dir := makeCgroup(t)
	beside := filepath.Join(dir, "z")
	if err := os.Mkdir(beside, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	chain, name := []int{at}, strings.Repeat("a", 250)
	t.Cleanup(func() {
		for i, fd := range slices.Backward(chain) {
			if i < len(chain)-1 {
				_ = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
			}
			_ = unix.Close(fd)
		}
	})
	for range 20 { // PATH_MAX is 4096
		if err := unix.Mkdirat(at, name, 0o755); err != nil {
			t.Fatal(err)
		}
		if at, err = unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		chain = append(chain, at)
	}
	pid, _ := start(t, beside)
	if pids, err := Processes(dir); err != nil || !slices.Contains(pids, pid) {
		t.Errorf("%v, %v; want %d", pids, err, pid)
	}
}

func TestProcessesOfAVanishingCgroup(t *testing.T) {
	dir := filepath.Join(makeCgroup(t), "comes-and-goes")
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
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
	gone := 0
	for ctx.Err() == nil {
		if _, err := Processes(dir); errors.Is(err, fs.ErrNotExist) {
			gone++
		} else if err != nil {
			t.Errorf("Processes: %v, want fs.ErrNotExist", err)
			break
		}
	}
	cancel()
	if n := <-churned; n == 0 || gone == 0 {
		t.Errorf("made and removed it %d times, found it gone %d times: nothing was shown", n, gone)
	}
}
