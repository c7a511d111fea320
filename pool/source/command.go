package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/pool"
)

const (
	// DefaultCommandTimeout is how long a command may run.
	DefaultCommandTimeout = 20 * time.Second
	// MaxCommandTimeout is the longest time-out that a command may have.
	MaxCommandTimeout = time.Minute

	// refMark stands for the reference in a command's arguments.
	refMark = "{ref}"
	// maxArguments and maxArgument bound a command.
	maxArguments, maxArgument = 64, 4096
	// commandPath is where commands look for others, unless their environment says otherwise.
	commandPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// pipeGrace is how long after a command's end its output may stay open.
	pipeGrace = 2 * time.Second
)

// Command is how a secret manager's own program is asked.
type Command struct {
	// Argv is the command; {ref} in an argument stands for what is behind the name.
	Argv []string
	// Refs are patterns of what may be asked for.
	Refs []string
	// Environment is added to PATH and HOME.
	Environment map[string]string
	// EnvironmentFiles are variables whose values are in files, read each time.
	EnvironmentFiles map[string]string
	// UID and GID are those the command runs as. Default: root.
	UID, GID uint32
	// Timeout is how long it may run. Default: [DefaultCommandTimeout].
	Timeout time.Duration
}

func (c Command) validate() error {
	switch {
	case len(c.Argv) == 0 || c.Argv[0] == "":
		return fmt.Errorf("argv: the command is missing, such as [\"op\", \"read\", %q]", refMark)
	case strings.Contains(c.Argv[0], refMark):
		return fmt.Errorf("argv: the first is the program, it must not have %s in it", refMark)
	case !slices.ContainsFunc(c.Argv, func(arg string) bool { return strings.Contains(arg, refMark) }):
		return fmt.Errorf("argv: %s is missing: it stands for what is asked for", refMark)
	case len(c.Argv) > maxArguments:
		return fmt.Errorf("argv: has %d arguments, at most %d are allowed", len(c.Argv), maxArguments)
	case slices.ContainsFunc(c.Argv, func(arg string) bool { return len(arg) > maxArgument || strings.Contains(arg, "\x00") }):
		return fmt.Errorf("argv: an argument has more than %d bytes, or a NUL in it", maxArgument)
	case len(c.Refs) == 0:
		return errors.New("refs: is missing: what may be asked for, such as [\"op://agents/*\"]")
	case c.Timeout < 0 || c.Timeout > MaxCommandTimeout:
		return fmt.Errorf("timeout: %s is not from 0s to %s", c.Timeout, pool.Span(MaxCommandTimeout))
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(c.Environment)), slices.Collect(maps.Keys(c.EnvironmentFiles))) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(c.Environment[name], "\x00") {
			return fmt.Errorf("environment: %q cannot be the name of a variable, or its value has a NUL", name)
		}
	}
	return nil
}

// commands are the templates, by name.
type commands map[string]Command

func (all commands) fetch(ctx context.Context, ref string, _ bool) ([]byte, error) {
	name, ref, _ := strings.Cut(ref, ":")
	c, ok := all[name]
	switch {
	case !ok:
		return nil, refused("there is no command %q: define it as [secrets.command.%s] in the configuration and restart the daemon", name, name)
	case ref == "" || !printable(ref) || len(ref) > maxArgument:
		return nil, refused("is not like command:%s:REF", name)
	case strings.HasPrefix(ref, "-"):
		return nil, refused("what is asked for must not begin with -: the program would take it for an option")
	case climbs(ref) || !Matches(c.Refs, ref):
		return nil, refused("secrets.command.%s.refs in the configuration does not allow it: name it there and restart the daemon", name)
	}
	return c.run(ctx, ref)
}

// run asks the program, and leaves no process behind, whatever it has started.
func (c Command) run(ctx context.Context, ref string) ([]byte, error) {
	env, err := c.environment()
	if err != nil {
		return nil, err
	}
	argv := make([]string, len(c.Argv))
	for i, arg := range c.Argv {
		argv[i] = strings.ReplaceAll(arg, refMark, ref)
	}
	timeout := cmp.Or(c.Timeout, DefaultCommandTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	out := output{text: make([]byte, 0, MaxSecret+1), full: cancel}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.WaitDelay = env, "/", &out, pipeGrace
	// It is the first process of a namespace of its own: with its end the kernel ends all
	// that it has started, those in sessions of their own too (pid_namespaces(7)).
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setsid: true, Pdeathsig: syscall.SIGKILL}
	if c.UID != 0 || c.GID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID}
	}
	// Pdeathsig is about the thread that it was started from (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	switch {
	case out.over:
		clear(out.text)
		return nil, refused("%s printed more than %d bytes, which no key has: is it the right command?", argv[0], MaxSecret)
	case err == nil:
		return out.text, nil
	}
	clear(out.text)
	return nil, c.explain(ctx, err, argv, timeout)
}

var errTimeout = errors.New("time is up")

// explain says what became of a command, without what it printed: that may hold a secret.
func (c Command) explain(ctx context.Context, err error, argv []string, timeout time.Duration) error {
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		return fmt.Errorf("%s did not end within %s and was killed: run it by hand to see whether it asks something", argv[0], pool.Span(timeout))
	case ctx.Err() != nil:
		return fmt.Errorf("%s was killed: %w", argv[0], ctx.Err())
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return refused("there is no program %s for the daemon: install it, or give its whole path", argv[0])
	case ended && exit.Exited():
		return fmt.Errorf("%s ended with status %d: run %q as uid %d to see why", argv[0], exit.ExitCode(), strings.Join(argv, " "), c.UID)
	}
	return fmt.Errorf("%s cannot be run: %w", argv[0], err)
}

// environment is what the command sees: nothing of the daemon's own.
func (c Command) environment() ([]string, error) {
	env := map[string]string{"PATH": commandPath, "HOME": "/", "LANG": "C.UTF-8"}
	maps.Copy(env, c.Environment)
	for name, path := range c.EnvironmentFiles {
		text, err := read(os.OpenFile(path, openFlags, 0))
		if err != nil {
			return nil, fmt.Errorf("the file for %s, %s: %w", name, path, explainFile(err))
		}
		env[name] = string(bytes.TrimRight(text, "\r\n"))
		clear(text)
	}
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list, nil
}

// output keeps what is printed up to a byte more than a secret may have, and has the
// command ended at that.
type output struct {
	text []byte
	over bool
	full func()
}

// Write implements [io.Writer].
func (o *output) Write(p []byte) (int, error) {
	if len(o.text)+len(p) > MaxSecret {
		o.over = true
		o.full()
		return len(p), nil
	}
	o.text = append(o.text, p...)
	return len(p), nil
}
