package guard

import (
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Support is whether this kernel has a backend.
type Support struct {
	Backend   Backend
	MinKernel string // the oldest mainline release that has it
	Err       error  // nil: it is there
}

// Probe tries each backend in a network namespace of its own, in the order in which they are preferred. It needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN.
func Probe() []Support {
	done := make(chan []Support)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("make a network namespace: %w", err)
			done <- []Support{{TCX, "6.6", err}, {Clsact, "4.5", err}, {NFTables, "5.13", err}}
			return
		}
		rules := func() Rules { return Rules{Cgroups: []Cgroup{{ID: 1, Level: 1}}, Ports: []uint16{443}} }
		done <- []Support{
			{TCX, "6.6", probeTCX()},
			{Clsact, "4.5", netlink.QdiscAdd(discipline(1))},
			{NFTables, "5.13", (&table{rules: rules, name: DefaultName}).refresh()},
		}
	}()
	return <-done
}

func probeTCX() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual MIT/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a probe: %w", err)
	}
	defer func() { _ = prog.Close() }()
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1, Program: prog, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return err
	}
	return l.Close()
}
