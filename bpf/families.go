package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// familiesLoaded is the hook that refuses sockets of families which carry what no other hook sees; nil programs where the kernel has
// no such hook.
type familiesLoaded struct {
	familiesPrograms
	familiesMaps
}

// loadFamilies loads the hook, which shares the counters with the redirect's, or leaves it out on a kernel without it.
func (r *Redirect) loadFamilies() error {
	if err := haveFamilies(); errors.Is(err, ebpf.ErrNotSupported) {
		return nil
	} else if err != nil {
		return err
	}
	spec, err := loadFamilies()
	if err != nil {
		return fmt.Errorf("read the compiled hook of socket families: %w", err)
	}
	if err := spec.LoadAndAssign(&r.families, &ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{familiesMapCounters: r.objs.Counters},
	}); err != nil {
		return fmt.Errorf("load the hook of socket families: %w", err)
	}
	return nil
}

// haveFamilies tries an LSM program for cgroups. A kernel on which BPF is not among the security modules takes one, and never runs it.
func haveFamilies() error {
	if modules, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil && !strings.Contains(","+strings.TrimSpace(string(modules))+",", ",bpf,") {
		return fmt.Errorf("the kernel was not started with bpf among its security modules (lsm=): %w", ebpf.ErrNotSupported)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMCgroup, AttachTo: "socket_create", License: "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a probe: %w", errors.Join(ebpf.ErrNotSupported, err))
	}
	return prog.Close()
}

func (r *Redirect) closeFamilies() error {
	return errors.Join(r.families.familiesPrograms.Close(), r.families.familiesMaps.Close())
}
