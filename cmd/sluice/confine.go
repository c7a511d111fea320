package main

import (
	"encoding/binary"
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// abi is how programs of one kind call the kernel on this processor.
type abi struct{ arch, ioctl, socket uint32 }

func abis() []abi {
	const x32 = 0x40000000 // arch/x86/include/uapi/asm/unistd.h
	switch runtime.GOARCH {
	case "amd64":
		return []abi{{unix.AUDIT_ARCH_X86_64, 16, 41}, {unix.AUDIT_ARCH_X86_64, x32 | 514, x32 | 41}, {unix.AUDIT_ARCH_I386, 54, 359}}
	case "arm64":
		return []abi{{unix.AUDIT_ARCH_AARCH64, 29, 198}, {unix.AUDIT_ARCH_ARM, 54, 281}}
	}
	return nil
}

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h); an argument has 64 bits.
const (
	callAt      = 0
	archAt      = 4
	argumentsAt = 16
)

// confine has the kernel refuse to the calling thread, and to what it executes, two ways past sluice that no cgroup closes: typing into
// the terminal that it shares with a shell, which does as it is told outside of the cgroup (TIOCSTI; a console's selection, too), and the
// hypervisor's sockets. It needs CAP_SYS_ADMIN, or else a set-user-ID program would be no more what it is.
func confine() error {
	var filter []unix.SockFilter
	refuse := func(arch, call uint32, argument int, value uint32, errno unix.Errno) {
		at := uint32(argumentsAt + 8*argument)
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // the lower half is all that is looked at in there
			at += 4
		}
		load := func(at uint32) unix.SockFilter {
			return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
		}
		unless := func(value uint32, over uint8) unix.SockFilter {
			return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: over}
		}
		filter = append(filter, load(archAt), unless(arch, 5), load(callAt), unless(call, 3), load(at), unless(value, 1),
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	for _, a := range abis() {
		refuse(a.arch, a.ioctl, 1, unix.TIOCSTI, unix.EPERM)
		refuse(a.arch, a.ioctl, 1, unix.TIOCLINUX, unix.EPERM)
		refuse(a.arch, a.socket, 0, unix.AF_VSOCK, unix.EAFNOSUPPORT)
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Without the flag (Linux 4.17) kernels before 5.16 take the processor's guesses away from the command.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 && !errors.Is(errno, unix.ENOSYS) && !errors.Is(errno, unix.EINVAL) { // a kernel without filters
		return errno
	}
	return nil
}
