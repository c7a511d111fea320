package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// seclude keeps what is in the daemon's memory there: it leaves no core dump, whatever
// takes those on this host, and no process without CAP_SYS_PTRACE may look inside
// (prctl(2), PR_SET_DUMPABLE; core(5)). A command that the daemon executes is dumpable
// again (execve(2)), and the daemon itself as much as fs.suid_dumpable says once it has
// executed one for another user, with whom it shares its memory until then. So the limit
// counts: what is piped to a collector has none, but for this one (fs/coredump.c).
func seclude() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("switch core dumps off: %w", err)
	}
	err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1})
	if errors.Is(err, unix.EPERM) { // whoever has started it allows for nothing at all
		err = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	}
	if err != nil {
		return fmt.Errorf("switch core dumps off: %w", err)
	}
	return nil
}
