package main

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// hungFUSE is a file system of type FUSE whose server takes questions and does not answer them: what has asked cannot be killed
// before it is over. It is mounted by a descriptor; over ends it.
func hungFUSE(t *testing.T) (device *os.File, over func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		lacking(t, "there is no FUSE: %v", err)
	}
	mounts, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer unix.Close(fd)
		for buffer := make([]byte, 1<<20); !ends.Load(); {
			asked := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(asked, 20); err != nil || asked[0].Revents&unix.POLLIN == 0 {
				time.Sleep(5 * time.Millisecond) // it may not be mounted yet
				continue
			}
			n, err := unix.Read(fd, buffer)
			// struct fuse_in_header: len, opcode, unique (include/uapi/linux/fuse.h). All but FUSE_INIT is left alone.
			if err != nil || n < 40 || binary.NativeEndian.Uint32(buffer[4:]) != 26 {
				continue
			}
			answer := make([]byte, 16+64) // struct fuse_out_header and fuse_init_out
			binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
			copy(answer[8:16], buffer[8:16])
			binary.NativeEndian.PutUint32(answer[16:], 7)
			binary.NativeEndian.PutUint32(answer[20:], 31)
			binary.NativeEndian.PutUint32(answer[36:], 4096) // max_write
			_, _ = unix.Write(fd, answer)
		}
	}()
	over = func() {
		ends.Store(true)
		<-ended
	}
	t.Cleanup(over)
	return os.NewFile(uintptr(mounts), "fuse"), over
}

// TestFilesThatDoNotAnswer: of what an agent has mounted doctor knows nothing then; of the others it does.
func TestFilesThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	kerneltest.Require(t)
	needs(t, "unshare", "mount")
	device, over := hungFUSE(t)
	hung, fine := kerneltest.Cgroup(t), kerneltest.Cgroup(t)
	start := func(dir, script string) {
		cgroup, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer cgroup.Close()
		cmd := exec.Command("unshare", "--mount", "sh", "-c", script+" && echo there && exec sleep 1000 3<&-")
		cmd.ExtraFiles = []*os.File{device}
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
		said, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			over()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		if n, _ := said.Read(make([]byte, 16)); n == 0 {
			t.Fatalf("nothing runs in %s", dir)
		}
	}
	start(hung, "mount -i -n -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung /mnt")
	start(fine, "true")
	_ = device.Close()
	asked := powersAsked{Cgroups: []string{hung, fine}}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	all, err := lookApart(ctx, asked)
	if _, in := all[hung]; err != nil || in {
		t.Errorf("of the hung one: %+v, %v", all[hung], err)
	}
	if found := all[fine]; len(found.Powers) == 0 || found.Error != "" {
		t.Errorf("of the other one: %+v", found)
	}
	over()
	all, err = lookApart(t.Context(), asked)
	if found := all[hung]; err != nil || len(found.Powers) == 0 || found.Error != "" {
		t.Errorf("of the hung one, once it is over: %+v, %v", found, err)
	}
}
