package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// loadFamilies loads the hooks of the security modules, which share the counters with the redirect's, or leaves them out on a kernel without them.
func (r *Redirect) loadFamilies() error {
	if err := haveFamilies(); errors.Is(err, ebpf.ErrNotSupported) {
		return nil
	} else if err != nil {
		return err
	}
	spec, err := loadFamilies()
	if err != nil {
		return fmt.Errorf("read the compiled hooks of security modules: %w", err)
	}
	for _, p := range []struct {
		name, hook string
		into       **ebpf.Program
	}{
		{familiesProgSluiceFamilies, "socket_create", &r.families},
		{familiesProgSluiceOptions, "socket_setsockopt", &r.options},
	} {
		code := spec.Programs[p.name].Instructions
		for i := range code {
			if code[i].IsLoadFromMap() && code[i].Reference() == familiesMapCounters {
				if err := code[i].AssociateMap(r.objs.Counters); err != nil {
					return fmt.Errorf("load the hook %s: %w", p.hook, err)
				}
			}
		}
		if *p.into, err = loadLSMCgroup(p.name, p.hook, code); err != nil {
			return fmt.Errorf("load the hook %s: %w", p.hook, err)
		}
	}
	return nil
}

// loadLSMCgroup loads a program for a hook of the security modules, for cgroups (Linux 6.0). The kernel
// has to be told the hook's BTF id, which the library finds for BPF_LSM_MAC only (cilium/ebpf 0.22).
func loadLSMCgroup(name, hook string, code asm.Instructions) (*ebpf.Program, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", err)
	}
	var target *btf.Func
	if err := kernel.TypeByName("bpf_lsm_"+hook, &target); err != nil {
		return nil, fmt.Errorf("find the hook %s: %w", hook, err)
	}
	id, err := kernel.TypeID(target)
	if err != nil {
		return nil, fmt.Errorf("find the hook %s: %w", hook, err)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		order = binary.BigEndian
	}
	var raw bytes.Buffer
	if err := code.Marshal(&raw, order); err != nil {
		return nil, fmt.Errorf("write the instructions: %w", err)
	}
	insns, license, said := raw.Bytes(), []byte("Dual MIT/GPL\x00"), make([]byte, 64<<10)
	attr := progLoadAttr{
		progType: uint32(ebpf.LSM), insnCount: uint32(len(insns) / asm.InstructionSize), insns: unsafe.Pointer(&insns[0]),
		license: unsafe.Pointer(&license[0]), logLevel: 1, logSize: uint32(len(said)), log: unsafe.Pointer(&said[0]),
		expectedAttachType: uint32(ebpf.AttachLSMCgroup), attachBTFID: uint32(id),
	}
	copy(attr.name[:len(attr.name)-1], name)
	for {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		switch errno {
		case 0:
			return ebpf.NewProgramFromFD(int(fd))
		case unix.EAGAIN, unix.EINTR: // the verifier was interrupted by a signal
		default:
			text, _, _ := bytes.Cut(said, []byte{0})
			return nil, fmt.Errorf("load program: %w: %s", errno, bytes.TrimSpace(text))
		}
	}
}

// progLoadAttr is what BPF_PROG_LOAD is told, as far as it is needed here: union bpf_attr (include/uapi/linux/bpf.h).
type progLoadAttr struct {
	progType, insnCount uint32
	insns, license      unsafe.Pointer
	logLevel, logSize   uint32
	log                 unsafe.Pointer
	_                   uint32 // kern_version
	_                   uint32 // prog_flags
	name                [16]byte
	_                   uint32 // prog_ifindex
	expectedAttachType  uint32
	_                   [36]byte // prog_btf_fd to line_info_cnt
	attachBTFID         uint32
	_                   uint32 // attach_btf_obj_fd: the kernel itself
}

// errNoModule says that the kernel could run LSM programs, and was started without.
var errNoModule = fmt.Errorf("the kernel was not started with bpf among its security modules (lsm=): %w", ebpf.ErrNotSupported)

// haveFamilies tries an LSM program for cgroups. A kernel on which BPF is not among the security modules takes one, and never runs it.
func haveFamilies() error {
	if modules, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil && !strings.Contains(","+strings.TrimSpace(string(modules))+",", ",bpf,") {
		return errNoModule
	}
	prog, err := loadLSMCgroup("probe", "socket_create", asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()})
	if err != nil {
		return fmt.Errorf("load a probe: %w", lackOfLSM(err))
	}
	return prog.Close()
}

// lackOfLSM marks those failures to load an LSM program for cgroups that tell of a kernel without them: it does not know the
// attach type (EINVAL), has no such hook or no types, or lets not even root have any (EPERM). Any other is a failure.
func lackOfLSM(err error) error {
	for _, lack := range []error{unix.EINVAL, unix.EPERM, btf.ErrNotFound, os.ErrNotExist} {
		if errors.Is(err, lack) {
			return notSupported(err)
		}
	}
	return err
}

func (r *Redirect) closeFamilies() error { return errors.Join(r.families.Close(), r.options.Close()) }
