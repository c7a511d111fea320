package bpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Feature is something of the kernel that the redirect uses.
type Feature struct {
	Name      string
	MinKernel string // the oldest mainline release that has it
	Optional  bool   // the redirect works without it, only less well
	WayOut    string // what gives it to this kernel; empty: nothing, if it is not supported
	Err       error  // nil: it is there
}

// Missing tells whether the kernel lacks it, as far as is known: another error is one of asking.
func (f Feature) Missing() bool { return errors.Is(f.Err, ebpf.ErrNotSupported) }

// ErrUnsupported is matched by every [*UnsupportedError].
var ErrUnsupported = errors.New("not supported by this kernel")

// UnsupportedError says what the kernel lacks.
type UnsupportedError struct {
	Feature   string
	MinKernel string
	WayOut    string // what gives it to this kernel; empty: nothing but another one
}

func (e *UnsupportedError) Error() string {
	mend := e.WayOut
	if mend == "" {
		mend = "needs Linux " + e.MinKernel
	}
	return fmt.Sprintf("%s is not supported by this kernel (%s); 'sluice doctor' says what else it lacks", e.Feature, mend)
}

// Is makes errors.Is(err, ErrUnsupported) and errors.Is(err, ebpf.ErrNotSupported) true.
func (e *UnsupportedError) Is(target error) bool {
	return target == ErrUnsupported || target == ebpf.ErrNotSupported
}

// Probe tries each feature by loading something tiny that uses it; kernel versions
// are never compared, because distributions move features between them.
func Probe() []Feature {
	helper := func(name, kernel string, t ebpf.ProgramType, fn asm.BuiltinFunc) Feature {
		return Feature{Name: name, MinKernel: kernel, Err: features.HaveProgramHelper(t, fn)}
	}
	setRetval := Feature{
		Name: "choosing the error of a refused connect (bpf_set_retval)", MinKernel: "5.18", Optional: true, Err: haveSetRetval(),
	}
	return []Feature{
		{Name: "cgroup socket address programs", MinKernel: "4.17", Err: features.HaveProgramType(ebpf.CGroupSockAddr)},
		{Name: "cgroup socket programs", MinKernel: "4.10", Err: features.HaveProgramType(ebpf.CGroupSock)},
		{Name: "socket operation programs", MinKernel: "4.13", Err: features.HaveProgramType(ebpf.SockOps)},
		{Name: "socket storage maps", MinKernel: "5.2", Err: features.HaveMapType(ebpf.SkStorage)},
		{Name: "BPF ring buffers", MinKernel: "5.8", Err: features.HaveMapType(ebpf.RingBuf)},
		helper("socket storage in connect hooks", "5.3", ebpf.CGroupSockAddr, asm.FnSkStorageGet),
		helper("socket storage in socket operations", "5.3", ebpf.SockOps, asm.FnSkStorageGet),
		helper("network namespace cookies in connect hooks", "5.7", ebpf.CGroupSockAddr, asm.FnGetNetnsCookie),
		helper("network namespace cookies in socket hooks", "5.7", ebpf.CGroupSock, asm.FnGetNetnsCookie),
		helper("socket options in connect hooks", "5.8", ebpf.CGroupSockAddr, asm.FnSetsockopt),
		{Name: "getpeername hooks", MinKernel: "5.8", Err: haveHook(ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetPeername)},
		{Name: "cgroup bpf_link", MinKernel: "5.7", Err: haveCgroupLink()},
		takingFeature(),
		cookieFeature(),
		storingFeature(),
		setRetval,
		{Name: "refusing what is made again before it is attached (kernel type information)", MinKernel: "5.4", Optional: true, Err: haveBTF()},
		probeFamilies(),
	}
}

func probeFamilies() Feature {
	f := Feature{Name: "refusing AF_XDP and other ways around the guard (LSM programs on cgroups)", MinKernel: "6.0", Optional: true, Err: haveFamilies()}
	switch {
	case errors.Is(f.Err, errNoModule):
		f.WayOut = "add bpf to lsm= on the kernel's command line"
	case errors.Is(f.Err, unix.EPERM):
		f.WayOut = "boot without what forbids such programs to root: the kernel's lockdown=, or a security module of the host's"
	}
	return f
}

// haveBTF looks for the kernel's type information, which the vigil's programs are fitted to the kernel by.
func haveBTF() error {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return fmt.Errorf("CONFIG_DEBUG_INFO_BTF: %w", notSupported(err))
	}
	return nil
}

// haveHook loads a program for a hook that does nothing: the kernel refuses those for hooks it does not have.
func haveHook(t ebpf.ProgramType, hook ebpf.AttachType) error {
	return takes(t, hook, asm.Mov.Imm(asm.R0, 1), asm.Return())
}

// haveSetRetval loads a program that chooses an error. A call without an argument, which is how cilium/ebpf asks for helpers, is another
// mistake to Linux 7.3 than it was to those before.
func haveSetRetval() error {
	return takes(ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect,
		asm.Mov.Imm(asm.R1, -int32(unix.ECONNREFUSED)), asm.FnSetRetval.Call(), asm.Mov.Imm(asm.R0, 0), asm.Return())
}

// takes loads a program; EINVAL is a hook or a helper that the kernel does not have.
func takes(t ebpf.ProgramType, hook ebpf.AttachType, program ...asm.Instruction) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: t, AttachType: hook, License: "Dual MIT/GPL", Instructions: program})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("load a probe: %w", notSupported(err))
	}
	if err != nil {
		return fmt.Errorf("load a probe: %w", err)
	}
	return prog.Close()
}

// haveCgroupLink asks for a link on a file that is no cgroup: a kernel with cgroup
// links looks at the file (EBADF), one without does not know the attach type.
func haveCgroupLink() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a probe: %w", err)
	}
	defer func() { _ = prog.Close() }()
	_, err = link.AttachRawLink(link.RawLinkOptions{Target: -1, Program: prog, Attach: ebpf.AttachCGroupInet4Connect})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	return nil
}

// haveLookupAndDelete takes an entry out of an empty hash map. Queues could do that before hash maps could.
func haveLookupAndDelete() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("make a map: %w", err)
	}
	defer func() { _ = m.Close() }()
	var key, value uint32
	if err := m.LookupAndDelete(&key, &value); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return notSupported(err)
	}
	return nil
}

// haveNetnsCookie asks a socket, as the daemon asks its listeners.
func haveNetnsCookie() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return fmt.Errorf("getsockopt: %w", notSupported(err))
	}
	return err
}

// haveStoring keeps a number with a socket.
func haveStoring() error {
	number := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.SkStorage, KeySize: 4, ValueSize: 4, Flags: unix.BPF_F_NO_PREALLOC, Key: number, Value: number,
	})
	if err != nil {
		return fmt.Errorf("make a map: %w", err)
	}
	defer func() { _ = m.Close() }()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := m.Put(int32(fd), int32(1)); err != nil {
		return notSupported(err)
	}
	return nil
}

// notSupported marks what tells of a kernel without something, in one line.
func notSupported(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
}

// Lacking is what the kernel lacks that this process has to ask of it for each target, as an [*UnsupportedError], or nil. What the
// programs need besides, [Load] finds out.
func Lacking() error {
	return firstMissing(takingFeature(), cookieFeature(), storingFeature())
}

// firstMissing is the first that the redirect cannot do without and the kernel lacks, as an [*UnsupportedError], or nil.
func firstMissing(features ...Feature) error {
	for _, f := range features {
		if !f.Optional && f.Missing() {
			return &UnsupportedError{Feature: f.Name, MinKernel: f.MinKernel, WayOut: f.WayOut}
		}
	}
	return nil
}

func takingFeature() Feature {
	return Feature{Name: "taking entries out of hash maps in one step", MinKernel: "5.14", Err: haveLookupAndDelete()}
}

func cookieFeature() Feature {
	return Feature{Name: "asking a socket for its network namespace's cookie (SO_NETNS_COOKIE)", MinKernel: "5.14", Err: haveNetnsCookie()}
}

// storingFeature is about more than the map: since the kernel takes a socket's storage from an allocator that needs cmpxchg16b
// (kmalloc_nolock), one on an emulated processor without it has the map and puts nothing there, so that each connect would be refused.
func storingFeature() Feature {
	return Feature{
		Name: "putting something into a socket's storage", MinKernel: "5.2", WayOut: "give the virtual machine a processor with cmpxchg16b, the flag cx16",
		Err: haveStoring(),
	}
}

// explain turns a failed load into the feature that was found missing, if one was.
func explain(err error, probed []Feature) error {
	if missing := firstMissing(probed...); missing != nil {
		return missing
	}
	return err
}
