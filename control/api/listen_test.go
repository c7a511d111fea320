package api

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestListen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "sluice.sock")
	first, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("the socket is %v, %v: others must not get at it", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("beside the socket something is left: %v", entries)
	}

	if _, err := Listen(t.Context(), path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one got %v, want ErrInUse", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first one was disturbed: %v", err)
	}
	conn.Close()

	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestListenReplacesStale(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sluice.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenLeavesOtherFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path); err == nil {
		t.Fatal("a file was taken for a stale socket")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "data" {
		t.Errorf("the file is %q, %v", data, err)
	}
}

// A daemon that comes late does not take away the socket of the one before it
// when it goes, nor the other way round.
func TestListenSaysThatAPathIsTooLong(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), strings.Repeat("d", 100), "sluice.sock")
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "too long for the path of a socket") {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left is %v (%v)", left, err)
	}
}

func TestCloseLeavesSuccessor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sluice.sock")
	first, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket is gone: %v", err)
	}
}

// The people of the group may use the socket if there is such a group; otherwise
// nobody but root may.
func TestSocketMode(t *testing.T) {
	t.Parallel()
	group, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{group.Name: 0o660, "no-such-group-71ac": 0o600} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := listen(t.Context(), path, name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if mode, owner := info.Mode().Perm(), info.Sys().(*syscall.Stat_t); mode != want || int(owner.Gid) != os.Getgid() || int(owner.Uid) != os.Geteuid() {
			t.Errorf("group %s: mode %04o, owner %d:%d; want %04o", name, mode, owner.Uid, owner.Gid, want)
		}
	}
}
