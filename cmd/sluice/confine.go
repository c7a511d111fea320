package main

import (
	"encoding/binary"
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// abi is how programs of one kind call the kernel on a processor.
type abi struct{ arch, ioctl, socket, ioUringSetup uint32 }

func abis(processor string) []abi {
	const ioUringSetup, x32 = 425, 0x40000000 // the same on all; arch/x86/include/uapi/asm/unistd.h
	switch processor {
	case "amd64":
		return []abi{
			{unix.AUDIT_ARCH_X86_64, 16, 41, ioUringSetup},
			{unix.AUDIT_ARCH_X86_64, x32 | 514, x32 | 41, x32 | ioUringSetup},
			{unix.AUDIT_ARCH_I386, 54, 359, ioUringSetup},
		}
	case "arm64":
		return []abi{{unix.AUDIT_ARCH_AARCH64, 29, 198, ioUringSetup}, {unix.AUDIT_ARCH_ARM, 54, 281, ioUringSetup}}
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
	filter := confinement(runtime.GOARCH)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Without the flag (Linux 4.17) kernels before 5.16 take the processor's guesses away from the command.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 && !errors.Is(errno, unix.ENOSYS) && !errors.Is(errno, unix.EINVAL) { // a kernel without filters
		return errno
	}
	return nil
}

// confinement is the filter of system calls. It would see none of those that an io_uring has the kernel make (IORING_OP_SOCKET): there is none
// to be had, as with a kernel that was built so, and programs do without.
func confinement(processor string) []unix.SockFilter {
	var filter []unix.SockFilter
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, over uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: over}
	}
	answer := func(errno unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	}
	refuse := func(arch, call uint32, argument int, value uint32, errno unix.Errno) {
		at := uint32(argumentsAt + 8*argument)
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // the lower half is all that is looked at in there
			at += 4
		}
		filter = append(filter, load(archAt), unless(arch, 5), load(callAt), unless(call, 3), load(at), unless(value, 1), answer(errno))
	}
	for _, a := range abis(processor) {
		refuse(a.arch, a.ioctl, 1, unix.TIOCSTI, unix.EPERM)
		refuse(a.arch, a.ioctl, 1, unix.TIOCLINUX, unix.EPERM)
		refuse(a.arch, a.socket, 0, unix.AF_VSOCK, unix.EAFNOSUPPORT)
		filter = append(filter, load(archAt), unless(a.arch, 3), load(callAt), unless(a.ioUringSetup, 1), answer(unix.ENOSYS))
	}
	return append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
}
