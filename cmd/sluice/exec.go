package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/intercept/trust"
)

// execName is how `run` calls its second stage. It is of no use by itself.
const execName = "__exec"

// stageFD is where the second stage reads what it is told.
const stageFD = 3

// What shells answer for a command that cannot be run (POSIX, 2.8.2).
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

func (c *cli) execCommand() *cobra.Command {
	return &cobra.Command{
		Use: execName, Hidden: true, Args: arguments(), Short: "The second stage of run",
		RunE: func(*cobra.Command, []string) error {
			told, err := readStage()
			if err != nil {
				return err
			}
			return told.exec(os.Environ())
		},
	}
}

func readStage() (stage, error) {
	pipe := os.NewFile(stageFD, "stage")
	defer pipe.Close()
	var told stage
	if err := json.NewDecoder(pipe).Decode(&told); err != nil || len(told.Argv) == 0 {
		return stage{}, errors.New(execName + ": this is a part of 'sluice run' and not called by hand")
	}
	return told, nil
}

// exec turns this process into the command. It is in a mount namespace of its
// own already. It only comes back with an error.
func (s stage) exec(environment []string) error {
	environment, err := trust.Install(s.CA, environment, s.Identity.Home)
	if err != nil {
		return fmt.Errorf("run: make the command trust the CA: %w", err)
	}
	if err := s.hideServers(environment); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	for name, value := range s.Environment {
		if !isSet(environment, name) {
			environment = append(environment, name+"="+value)
		}
	}
	environment = aroundProxies(environment, s.Hosts)
	runtime.LockOSThread() // the one that is confined is to become the command
	if err := confine(); err != nil {
		return fmt.Errorf("run: keep the command from its terminal's input: %w", err)
	}
	if !s.Identity.Keep {
		environment = s.Identity.environment(environment)
		if err := s.Identity.assume(); err != nil {
			return fmt.Errorf("run: become uid %d: %w", s.Identity.UID, err)
		}
	}
	path, err := lookPath(s.Argv[0])
	if err == nil {
		err = unix.Exec(path, s.Argv, environment)
	}
	return notRun(s.Argv[0], err)
}

// lookPath looks for the command as the user who is to run it. Unlike
// exec.LookPath it takes a relative directory in PATH for what it says, as a
// shell does.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		return path, nil
	}
	return path, err
}

// notRun says why the command could not be run, with a shell's status.
func notRun(name string, err error) error {
	status, why := exitNotExecutable, ""
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		status, why = exitNotFound, "command not found"
		if strings.ContainsRune(name, filepath.Separator) {
			why = "no such file, or its interpreter is missing"
		}
	case errors.Is(err, unix.ENOEXEC):
		why = "not an executable format: a script needs a first line such as #!/bin/sh"
	case errors.Is(err, fs.ErrPermission):
		why = "permission denied"
	case errors.Is(err, unix.EISDIR):
		why = "is a directory"
	default:
		why = err.Error()
	}
	fmt.Fprintf(os.Stderr, "sluice: run: %s: %s\n", name, why)
	return statusError{status}
}

// assume gives up root for good: all three ids at once, groups first.
func (who identity) assume() error {
	groups := make([]int, 0, len(who.Groups))
	for _, group := range who.Groups {
		groups = append(groups, int(group))
	}
	// The functions of package syscall act on every thread of the process.
	if err := syscall.Setgroups(groups); err != nil {
		return err
	}
	if err := syscall.Setresgid(int(who.GID), int(who.GID), int(who.GID)); err != nil {
		return err
	}
	return syscall.Setresuid(int(who.UID), int(who.UID), int(who.UID))
}

// environment says who the user is, as login would.
func (who identity) environment(environment []string) []string {
	for name, value := range map[string]string{"HOME": who.Home, "USER": who.Name, "LOGNAME": who.Name} {
		environment = slices.DeleteFunc(environment, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
		if value != "" {
			environment = append(environment, name+"="+value)
		}
	}
	return environment
}

func isSet(environment []string, name string) bool {
	return slices.ContainsFunc(environment, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
}
