package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestConfinement holds the filter to what the kernel's tables of calls say, also for the processors that no test runs on: what the
// kernel has compiled out (io_uring) is refused on each.
func TestConfinement(t *testing.T) {
	t.Parallel()
	const x32 = 0x40000000
	refused := func(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }
	for _, kind := range []struct {
		name, processor     string
		arch                uint32
		ioctl, socket, ring uint32
	}{
		{"x86-64", "amd64", unix.AUDIT_ARCH_X86_64, 16, 41, 425},
		{"x32", "amd64", unix.AUDIT_ARCH_X86_64, x32 + 514, x32 + 41, x32 + 425},
		{"i386", "amd64", unix.AUDIT_ARCH_I386, 54, 359, 425},
		{"arm64", "arm64", unix.AUDIT_ARCH_AARCH64, 29, 198, 425},
		{"arm", "arm64", unix.AUDIT_ARCH_ARM, 54, 281, 425},
	} {
		filter := confinement(kind.processor)
		for _, c := range []struct {
			what string
			call uint32
			args [6]uint64
			want uint32
		}{
			{"typing", kind.ioctl, [6]uint64{0, unix.TIOCSTI}, refused(unix.EPERM)},
			{"typing, the upper half set", kind.ioctl, [6]uint64{0, 1<<32 | unix.TIOCSTI}, refused(unix.EPERM)},
			{"a selection", kind.ioctl, [6]uint64{0, unix.TIOCLINUX}, refused(unix.EPERM)},
			{"a size", kind.ioctl, [6]uint64{unix.TIOCSTI, unix.TIOCGWINSZ}, unix.SECCOMP_RET_ALLOW},
			{"the hypervisor", kind.socket, [6]uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, refused(unix.EAFNOSUPPORT)},
			{"the network", kind.socket, [6]uint64{unix.AF_INET, unix.AF_VSOCK}, unix.SECCOMP_RET_ALLOW},
			{"a ring", kind.ring, [6]uint64{8}, refused(unix.ENOSYS)},
			{"a ring that is there", kind.ring + 1, [6]uint64{8}, unix.SECCOMP_RET_ALLOW},
		} {
			if got := verdict(t, filter, kind.arch, c.call, c.args); got != c.want {
				t.Errorf("%s, %s: %#x, want %#x", kind.name, c.what, got, c.want)
			}
		}
		if got := verdict(t, filter, unix.AUDIT_ARCH_S390X, kind.ring, [6]uint64{}); got != unix.SECCOMP_RET_ALLOW {
			t.Errorf("%s: %#x for another processor's call", kind.name, got)
		}
	}
}

// verdict runs a filter as the kernel does (Documentation/networking/filter.rst), on a little-endian struct seccomp_data.
func verdict(t *testing.T, filter []unix.SockFilter, arch, call uint32, args [6]uint64) uint32 {
	t.Helper()
	words := []uint32{call, arch, 0, 0}
	for _, a := range args {
		words = append(words, uint32(a), uint32(a>>32))
	}
	var loaded uint32
	for at := 0; at < len(filter); at++ {
		switch f := filter[at]; f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			loaded = words[f.K/4]
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if loaded == f.K {
				at += int(f.Jt)
			} else {
				at += int(f.Jf)
			}
		case unix.BPF_RET | unix.BPF_K:
			return f.K
		default:
			t.Fatalf("instruction %d: code %#x", at, f.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}
