package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// fuse is a file system of one file, its root (include/uapi/linux/fuse.h).
type fuse struct {
	text []byte
	mute atomic.Bool // nothing is answered any more
}

// mount mounts it on a file; false if the kernel has no FUSE.
func (f *fuse) mount(t *testing.T) (path string, ok bool) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return "", false
	}
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("mute", path, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=100755,user_id=0,group_id=0", fd)); err != nil {
		t.Fatal(err)
	}
	device := os.NewFile(uintptr(fd), "/dev/fuse") // only now: before the mount there is nothing to be polled
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = device.Close() // who waits is told that the server is gone
		<-done
	})
	go func() {
		defer close(done)
		for request := make([]byte, 64<<10); ; {
			n, err := device.Read(request)
			if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ENODEV) {
				return
			}
			if err == nil && n >= 40 && !f.mute.Load() {
				_, _ = device.Write(f.answer(request[:n]))
			}
		}
	}()
	return path, true
}

func (f *fuse) answer(request []byte) []byte {
	const getattr, open, read, release, flush, begin = 3, 14, 15, 18, 25, 26
	order, body, errno := binary.NativeEndian, []byte(nil), 0
	switch order.Uint32(request[4:]) {
	case begin:
		body = make([]byte, 64)
		order.PutUint32(body, 7)
		order.PutUint32(body[4:], 31)
		order.PutUint32(body[20:], 4096) // max_write
	case getattr: // which is asked each time, as it is valid for no time
		body = make([]byte, 104)
		order.PutUint64(body[16:], 1)
		order.PutUint64(body[24:], uint64(len(f.text)))
		order.PutUint32(body[76:], unix.S_IFREG|0o755)
		order.PutUint32(body[80:], 1)
	case open:
		body = make([]byte, 16)
	case read:
		at := min(order.Uint64(request[48:]), uint64(len(f.text)))
		body = f.text[at:min(at+uint64(order.Uint32(request[56:])), uint64(len(f.text)))]
	case release, flush:
	default:
		errno = -int(unix.ENOSYS)
	}
	head := order.AppendUint32(nil, uint32(16+len(body)))
	head = order.AppendUint32(head, uint32(int32(errno)))
	return append(append(head, request[8:16]...), body...)
}

// TestProcessesThatDoNotAnswerHoldNobodyUp: what runs may come from a file system of an agent's own making, or one whose server is away.
func TestProcessesThatDoNotAnswerHoldNobodyUp(t *testing.T) {
	t.Parallel()
	needs(t, "sleep")
	h := newHouse(t, nil)
	program, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	var f fuse
	if f.text, err = os.ReadFile(program); err != nil {
		t.Fatal(err)
	}
	file, ok := f.mount(t)
	if !ok {
		t.Log("this kernel has no FUSE")
		return
	}
	mute, other := kerneltest.Cgroup(t), kerneltest.Cgroup(t)
	cmd := h.agent(nil, "sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$1" 600`, mute, file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	h.until("it runs", func() bool {
		pids, err := cgroup.Processes(mute)
		if err != nil || len(pids) == 0 {
			return false
		}
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pids[0]))
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pids[0]))
		return exe == file && strings.Contains(string(name), "nanosleep")
	})
	h.sluice("", "attach", "--cgroup", mute)
	f.mute.Store(true)
	resident(t, other)
	for _, argv := range [][]string{{"attach", "--cgroup", other}, {"targets"}, {"detach", "--all"}} {
		done := make(chan string, 1)
		begin := time.Now()
		go func() {
			var printed bytes.Buffer
			status := h.operate(&printed, &printed, "", argv...)
			done <- fmt.Sprintf("status %d: %s", status, printed.Bytes())
		}()
		const bound = 20 * time.Second // of a busy machine
		select {
		case got := <-done:
			t.Logf("%v: %v", argv, time.Since(begin))
			if argv[0] == "targets" && (!strings.Contains(got, mute) || !strings.Contains(got, other)) {
				t.Errorf("%v: %s", argv, got)
			}
		case <-time.After(bound):
			t.Fatalf("%v has taken %v", argv, bound)
		}
	}
}
