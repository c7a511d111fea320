//go:build race

package exchange

import "syscall"

// The race detector hears from these, and not from a raw call, what one end of a
// connection did before the other.

func readFD(fd uintptr, p []byte) (int, syscall.Errno) { return asErrno(syscall.Read(int(fd), p)) }

func writeFD(fd uintptr, p []byte) (int, syscall.Errno) { return asErrno(syscall.Write(int(fd), p)) }

func peekFD(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return asErrno(n, err)
}

func asErrno(n int, err error) (int, syscall.Errno) {
	if err == nil {
		return n, 0
	}
	errno, ok := err.(syscall.Errno)
	if !ok {
		errno = syscall.EIO
	}
	return 0, errno
}
