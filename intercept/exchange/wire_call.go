//go:build !race

package exchange

import (
	"runtime"
	"syscall"
	"unsafe"
)

func readFD(fd uintptr, p []byte) (int, syscall.Errno)  { return call(syscall.SYS_READ, fd, p, 0) }
func writeFD(fd uintptr, p []byte) (int, syscall.Errno) { return call(syscall.SYS_WRITE, fd, p, 0) }

// peekFD is as raw as they are: one call a request of which the scheduler is told wakes its
// monitor, which then looks at the threads 20,000 times a second as long as there is work.
func peekFD(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(syscall.SYS_RECVFROM, fd, p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
}

func call(trap, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
	runtime.KeepAlive(p)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
