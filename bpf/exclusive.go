package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// exclusiveError says which program keeps a hook off a cgroup.
type exclusiveError struct {
	hook, cgroup string // what was to be attached, and where
	on           string // the cgroup that carries the program
	program      string // its name, as the kernel has it
	id           ebpf.ProgramID
	attach       ebpf.AttachType
}

func (e *exclusiveError) Error() string {
	where := "a cgroup outside it"
	if e.on == e.cgroup {
		where = "another cgroup"
	}
	return fmt.Sprintf("attach %s to %s: %s carries an exclusive program of the same kind, %q (id %d)%s: it was attached without BPF_F_ALLOW_MULTI, "+
		"and the kernel allows no other beside or below it; %s, take it off ('bpftool cgroup detach %s %s id %d'), or attach %s",
		e.hook, e.cgroup, e.on, e.program, e.id, e.whose(), e.wayOut(), e.on, bpftoolName(e.attach), e.id, where)
}

// Is makes errors.Is(err, ErrExclusive) true.
func (e *exclusiveError) Is(target error) bool { return target == ErrExclusive }

// ofSystemd tells by the name: systemd's firewall of a unit is sd_fw_egress and sd_fw_ingress, its others begin with sd_, too.
func (e *exclusiveError) ofSystemd() bool { return strings.HasPrefix(e.program, "sd_") }

func (e *exclusiveError) whose() string {
	if e.ofSystemd() {
		return ", which is systemd's"
	}
	return ""
}

func (e *exclusiveError) wayOut() string {
	if e.ofSystemd() {
		return fmt.Sprintf("set Delegate=yes in %s, so that systemd shares, or remove its IPAddressDeny= and IPAddressAllow=", filepath.Base(e.on))
	}
	return "have whoever attached it share (if it is systemd, for a unit's IPAddressDeny= without Delegate=yes, set that in the unit)"
}

// bpftoolName is what bpftool-cgroup(8) calls a hook.
func bpftoolName(attach ebpf.AttachType) string {
	switch attach {
	case ebpf.AttachLSMCgroup:
		return "lsm_cgroup"
	case ebpf.AttachCGroupInetSockCreate:
		return "sock_create"
	case ebpf.AttachCGroupInet4Bind:
		return "bind4"
	case ebpf.AttachCGroupInet6Bind:
		return "bind6"
	case ebpf.AttachCGroupUDP4Sendmsg:
		return "sendmsg4"
	case ebpf.AttachCGroupUDP6Sendmsg:
		return "sendmsg6"
	case ebpf.AttachCGroupSockOps:
		return "sock_ops"
	case ebpf.AttachCgroupInet4GetPeername:
		return "getpeername4"
	case ebpf.AttachCgroupInet6GetPeername:
		return "getpeername6"
	case ebpf.AttachCGroupInet4Connect:
		return "connect4"
	case ebpf.AttachCGroupInet6Connect:
		return "connect6"
	}
	return attach.String()
}

// findExclusive looks for the program that keeps a hook off a cgroup, from the cgroup upwards: the kernel asks the nearest
// one that carries any (hierarchy_allows_attach in kernel/bpf/cgroup.c). nil: there is none that would.
func findExclusive(hook, cgroup string, attach ebpf.AttachType) *exclusiveError {
	for path := cgroup; ; path = filepath.Dir(path) {
		dir, err := os.Open(path)
		if err != nil {
			return nil
		}
		flags, programs, err := queryFlags(int(dir.Fd()), attach)
		_ = dir.Close()
		if err != nil || flags&unix.BPF_F_ALLOW_MULTI != 0 {
			return nil
		}
		if len(programs) > 0 {
			// Below one that may be overridden another kind is allowed, beside it is not.
			if flags&unix.BPF_F_ALLOW_OVERRIDE != 0 && path != cgroup {
				return nil
			}
			return &exclusiveError{hook: hook, cgroup: cgroup, on: path, program: programName(programs[0]), id: programs[0], attach: attach}
		}
		if path == "/" {
			return nil
		}
	}
}

// queryFlags is BPF_PROG_QUERY with the flags that the programs on a cgroup were attached with, which
// the library does not give.
func queryFlags(cgroup int, attach ebpf.AttachType) (flags uint32, programs []ebpf.ProgramID, err error) {
	const most = 64 // BPF_CGROUP_MAX_PROGS
	var ids [most]ebpf.ProgramID
	// The beginning of union bpf_attr's struct for BPF_PROG_QUERY (include/uapi/linux/bpf.h).
	attr := struct {
		target, attach, queryFlags, attachFlags uint32
		ids                                     uint64
		count, _                                uint32
	}{target: uint32(cgroup), attach: uint32(attach), ids: uint64(uintptr(unsafe.Pointer(&ids))), count: most}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&ids)
	if errno != 0 {
		return 0, nil, errno
	}
	return attr.attachFlags, ids[:attr.count], nil
}

func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "?"
	}
	defer func() { _ = p.Close() }()
	info, err := p.Info()
	if err != nil {
		return "?"
	}
	return info.Name
}
