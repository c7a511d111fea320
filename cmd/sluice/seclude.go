package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// seclude keeps what is in the daemon's memory there: it leaves no core dump, whatever
// takes those on this host, and no process without CAP_SYS_PTRACE may look inside
// (prctl(2), PR_SET_DUMPABLE; core(5)). A command that the daemon executes is dumpable
// again (execve(2)), and may dump no core either.
func seclude() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("switch core dumps off: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switch core dumps off: %w", err)
	}
	return nil
}
