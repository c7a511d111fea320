package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// apartProcess runs a shell in a mount namespace of its own until the test is over.
func apartProcess(t *testing.T, propagation string, argv ...string) int {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", propagation}, argv...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	ready := make([]byte, 1)
	if _, err := stdout.Read(ready); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// seen is a file as a process sees it.
func seen(t *testing.T, pid int, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "root", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func itoa(pid int) string { return strconv.Itoa(pid) }

// count is how many covers a process sees. Its other mounts may go when something else on the host does.
func count(t *testing.T, pid int) int {
	t.Helper()
	covers, err := covered(pid)
	if err != nil {
		t.Fatal(err)
	}
	return len(covers)
}

func TestCoverInARunningNamespace(t *testing.T) {
	kerneltest.Require(t)
	first, second := newSite(t, "one.example").pem, newSite(t, "two.example").pem
	bundle := System()
	original, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	pid := apartProcess(t, "private", "sh", "-c", "mount -o remount,bind,ro / 2>/dev/null; echo; read end")
	before, ours := count(t, pid), count(t, os.Getpid())

	bundles, err := Cover(pid, nil, nil, first)
	if err != nil || !slices.Contains(bundles, bundle) {
		t.Fatalf("%q, %v", bundles, err)
	}
	if got := seen(t, pid, bundle); !bytes.Equal(got, Merge(original, first)) {
		t.Errorf("%d bytes are seen, %d are expected", len(got), len(Merge(original, first)))
	}
	if now, err := os.ReadFile(bundle); err != nil || !bytes.Equal(now, original) || count(t, os.Getpid()) != ours {
		t.Errorf("the host's own are changed: %v", err)
	}
	if err := os.WriteFile(filepath.Join("/proc", itoa(pid), "root", bundle), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("it can be written: %v", err)
	}
	after := count(t, pid)
	if again, err := Cover(pid, nil, nil, first); err != nil || !slices.Equal(again, bundles) || count(t, pid) != after {
		t.Errorf("twice: %q, %v, %d mounts, want %d", again, err, count(t, pid), after)
	}
	if again, err := Cover(pid, nil, nil, second); err != nil || !slices.Equal(again, bundles) || count(t, pid) != after || !bytes.Equal(seen(t, pid, bundle), Merge(original, second)) {
		t.Errorf("another CA: %q, %v, %d mounts, want %d", again, err, count(t, pid), after)
	}
	if none, err := Cover(pid, nil, nil, nil); err != nil || none != nil {
		t.Errorf("without a CA: %q, %v", none, err)
	}
	if err := Uncover(pid); err != nil || count(t, pid) != before || !bytes.Equal(seen(t, pid, bundle), original) {
		t.Errorf("uncovered: %v, %d mounts, want %d", err, count(t, pid), before)
	}
	if err := Uncover(pid); err != nil {
		t.Errorf("uncovered twice: %v", err)
	}
}

// TestCoverOnOlderKernels takes the way on which a file system has to be mounted somewhere.
func TestCoverOnOlderKernels(t *testing.T) {
	kerneltest.Require(t)
	bundle := System()
	pid := apartProcess(t, "private", "sh", "-c", "echo; read end")
	ns, err := enterable(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	files, remove, err := hostFiles(coverName+"0123", []sheet{{text: []byte("certificates"), mode: 0o644}}, "1 2 3 4")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	defer func() { _ = unix.Close(files[0]) }()
	if err := within(ns, func() error {
		return unix.MoveMount(files[0], "", unix.AT_FDCWD, bundle, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}); err != nil {
		t.Fatal(err)
	}
	remove()
	if got := seen(t, pid, bundle); string(got) != "certificates" {
		t.Errorf("%q", got)
	}
	if left, _ := filepath.Glob("/run/sluice-trust-*"); left != nil {
		t.Errorf("left behind: %q", left)
	}
	if covers, err := covered(pid); err != nil || len(covers) != 1 || covers[0].at != bundle {
		t.Errorf("%+v, %v", covers, err)
	}
	if err := Uncover(pid); err != nil {
		t.Error(err)
	}
	if covers, err := covered(pid); err != nil || len(covers) != 0 {
		t.Errorf("%+v, %v", covers, err)
	}
}

func TestWhatIsNotCovered(t *testing.T) {
	kerneltest.Require(t)
	ca := newSite(t, "one.example").pem
	if _, err := Cover(os.Getpid(), nil, nil, ca); !errors.Is(err, ErrHost) {
		t.Errorf("the host itself: %v", err)
	}
	if err := Uncover(os.Getpid()); err != nil {
		t.Error(err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := Cover(ended.Process.Pid, nil, nil, ca); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that has ended: %v", err)
	}
	if err := Uncover(ended.Process.Pid); err != nil {
		t.Error(err)
	}

	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "bundle.pem")
	shared := apartProcess(t, "unchanged", "sh", "-c", "echo; read end")
	if err := apart(shared, []spot{{at: file}}); !errors.Is(err, ErrShared) {
		t.Errorf("shared with the host: %v", err)
	}
	private := apartProcess(t, "private", "sh", "-c", "echo; read end")
	if err := apart(private, []spot{{at: file}}); err != nil {
		t.Errorf("not shared: %v", err)
	}

	// A pipe in a bundle's place keeps nobody waiting, and does not keep the others from being covered.
	odd := apartProcess(t, "private", "sh", "-c", "mkfifo "+dir+"/pipe && mount --bind "+dir+"/pipe "+System()+"; echo; read end")
	before := count(t, odd)
	done := make(chan error, 1)
	go func() {
		bundles, err := Cover(odd, nil, nil, ca)
		if err == nil || !strings.Contains(err.Error(), System()) || slices.Contains(bundles, System()) || count(t, odd) != before+len(bundles) {
			err = fmt.Errorf("%q, %w, %d mounts, %d before", bundles, err, count(t, odd), before)
		} else {
			err = Uncover(odd)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil || count(t, odd) != before {
			t.Errorf("%v, %d mounts, want %d", err, count(t, odd), before)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("waits for a pipe")
	}
}

// serviceChild covers as a daemon does that is in a mount namespace of its own.
func serviceChild(in json.RawMessage) (any, error) {
	var what struct {
		PID int
		CA  []byte
	}
	if err := json.Unmarshal(in, &what); err != nil {
		return nil, err
	}
	if os.Getenv("SLUICE_TRUST_SERVICE") == "" {
		return reexec("service", in, "SLUICE_TRUST_SERVICE=1")
	}
	_, err := Cover(what.PID, nil, nil, what.CA)
	said := fmt.Sprint(err)
	if !errors.Is(err, ErrHost) {
		said = "not the host: " + said
	}
	return said, Uncover(what.PID)
}

// The host's files are left alone by a daemon that has mounts of its own, too.
func TestHostIsNotCoveredByAService(t *testing.T) {
	kerneltest.Require(t)
	host := exec.Command("sleep", "1000")
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = host.Process.Kill()
		_ = host.Wait()
	})
	before := count(t, host.Process.Pid)
	var said string
	what := map[string]any{"PID": host.Process.Pid, "CA": newSite(t, "one.example").pem}
	if err := kerneltest.Call(t, "", "", "service", what, &said); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said, ErrHost.Error()) || strings.HasPrefix(said, "not") || count(t, host.Process.Pid) != before {
		t.Errorf("%s, %d mounts, want %d", said, count(t, host.Process.Pid), before)
	}
}

// A sandbox that was made in covered mounts has them locked: they go with it.
func TestUncoverOfASandbox(t *testing.T) {
	kerneltest.Require(t)
	outer := running(t, 0, nil, idleShell...)
	bundles, err := Cover(outer, nil, nil, newSite(t, "one.example").pem)
	if err != nil {
		t.Fatal(err)
	}
	inner := running(t, outer, nil, "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "echo; read end")
	if covers, err := covered(inner); err != nil || len(covers) != len(bundles) {
		t.Errorf("the sandbox: %+v, %v", covers, err)
	}
	for _, pid := range []int{inner, outer} {
		if err := Uncover(pid); err != nil {
			t.Error(err)
		}
	}
	if covers, err := covered(outer); err != nil || len(covers) != 0 {
		t.Errorf("%+v, %v", covers, err)
	}
}
