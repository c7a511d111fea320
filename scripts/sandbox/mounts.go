package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageName is the first argument of a program's second self: a process in a
// mount namespace of its own that mounts what it is told and becomes a command.
const stageName = "in-own-mounts"

// Become makes this process what Command asked for, if it is a second self;
// then it does not return. main calls it before anything else.
func Become() {
	if len(os.Args) > 1 && os.Args[1] == stageName {
		fmt.Fprintln(os.Stderr, "sandbox: "+enter(os.Args[2:]).Error())
		os.Exit(1)
	}
}

// Command is a command that sees mounts which nobody else sees: "bpf:DIR" is a
// new bpffs on DIR, "FILE:OVER" is FILE in the place of OVER. It is in a process
// group of its own and gets SIGTERM when the caller dies.
func Command(mounts []string, argv ...string) *exec.Cmd {
	args := append([]string{stageName}, mounts...)
	cmd := exec.Command("/proc/self/exe", append(append(args, "--"), argv...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: unix.CLONE_NEWNS, // Go makes the copied mounts private
		// Ctrl-C is the caller's to hear: it ends things in their order.
		Setpgid: true, Pdeathsig: syscall.SIGTERM,
	}
	return cmd
}

// enter is the second self; it returns only errors.
func enter(args []string) error {
	for i, mount := range args {
		if mount == "--" {
			argv := args[i+1:]
			if len(argv) == 0 {
				return errors.New("no command")
			}
			return fmt.Errorf("exec %s: %w", argv[0], syscall.Exec(argv[0], argv, os.Environ()))
		}
		from, to, _ := strings.Cut(mount, ":")
		var err error
		if from == "bpf" {
			err = unix.Mount("bpf", to, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
		} else {
			err = unix.Mount(from, to, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("mount %s on %s: %w", from, to, err)
		}
	}
	return errors.New("no command")
}
