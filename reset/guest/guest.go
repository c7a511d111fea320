// Package guest runs commands in the guests of runtimes that are reached by their own
// command-line clients: Apple's container and tart, both on macOS hosts.
package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-proxy/sluice/reset"
)

const (
	// drainLimit is how long the client's output may stay open after its end.
	drainLimit = 500 * time.Millisecond
	// readLimit is how long the reading of a file may take.
	readLimit = 10 * time.Second
	// exitNotFound and exitNotExecutable are what a client ends with when there is no
	// such program in the guest (POSIX, 2.8.2).
	exitNotExecutable, exitNotFound = 126, 127
)

// Runtime reaches agents by a client.
type Runtime struct {
	client string
	// arguments are the client's for a command in a guest; the environment is already
	// in file, which has it as NAME=value lines, if the client takes one.
	arguments func(guest, file string, c reset.Command) []string
	// meanings says which of the client's words mean what.
	meanings map[string]error
	files    bool // the client takes a file of variables
}

var _ reset.Runtime = (*Runtime)(nil)

// NewApple reaches the containers of Apple's `container`; client is its path, "" is
// what PATH has.
func NewApple(client string) *Runtime {
	return &Runtime{
		client: or(client, "container"), arguments: appleArguments, files: true,
		meanings: map[string]error{
			"not found": reset.ErrNotFound, "is not running": reset.ErrNotRunning, "XPC": reset.ErrUnavailable,
			"failed to find target executable": reset.ErrNoCommand,
		},
	}
}

// NewTart reaches the machines of `tart`, which need tart's guest agent; client is its
// path, "" is what PATH has. The guest's user must be allowed to become the profile's by sudo.
func NewTart(client string) *Runtime {
	return &Runtime{
		client: or(client, "tart"), arguments: tartArguments,
		meanings: map[string]error{
			"does not exist": reset.ErrNotFound, "is not running": reset.ErrNotRunning, "command not found": reset.ErrNoCommand,
		},
	}
}

func or(given, usual string) string {
	if given == "" {
		return usual
	}
	return given
}

// appleArguments has the variables in a file: a process's arguments are for all to see.
func appleArguments(guest, file string, c reset.Command) []string {
	args := []string{"exec", "--user", fmt.Sprintf("%d:%d", c.UID, c.GID)}
	if file != "" {
		args = append(args, "--env-file", file)
	}
	return append(append(args, "--workdir", "/", guest), c.Argv...)
}

// tartArguments goes by sudo, because tart runs everything as its guest agent's user.
func tartArguments(guest, _ string, c reset.Command) []string {
	args := []string{
		"exec", guest, "sudo", "-n", "-u", "#" + strconv.FormatUint(uint64(c.UID), 10), "-g", "#" + strconv.FormatUint(uint64(c.GID), 10), "--",
	}
	if len(c.Environment) > 0 {
		args = append(append(args, "env"), c.Environment...)
	}
	return append(args, c.Argv...)
}

// Environment is empty: the client gives the command the guest's own.
func (r *Runtime) Environment(context.Context, string, uint32) ([]string, error) { return nil, nil }

// ReadFile has the guest's cat read it, as root.
func (r *Runtime) ReadFile(ctx context.Context, guest, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	out, said := &limited{limit: limit}, new(reset.Output)
	err := r.run(ctx, guest, "", reset.Command{Argv: []string{"cat", "--", path}}, out, said)
	switch exit := (*exec.ExitError)(nil); {
	case err == nil && out.over:
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	case err == nil:
		return out.kept, nil
	case errors.As(err, &exit) && strings.Contains(string(said.Bytes()), "No such file"):
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	case errors.As(err, &exit):
		return nil, r.explain(guest, said.Bytes(), err)
	}
	return nil, err
}

// limited keeps the first bytes and says whether there were more.
type limited struct {
	kept  []byte
	limit int64
	over  bool
}

func (l *limited) Write(p []byte) (int, error) {
	room := l.limit - int64(len(l.kept))
	l.over = l.over || int64(len(p)) > room
	l.kept = append(l.kept, p[:min(int64(len(p)), room)]...)
	return len(p), nil
}

// Exec implements [reset.Runtime]. At the time-out the client is killed, with its
// children; what that does to the command in the guest is the runtime's to say.
func (r *Runtime) Exec(ctx context.Context, guest string, c reset.Command) (reset.Result, error) {
	file, remove, err := r.environmentFile(c.Environment)
	if err != nil {
		return reset.Result{}, err
	}
	defer remove()
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var output reset.Output
	began := time.Now()
	err = r.run(limited, guest, file, c, &output, &output)
	result := reset.Result{Output: output.Bytes(), Took: time.Since(began)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result, ctx.Err()
	case limited.Err() != nil:
		result.TimedOut = true
		return result, nil
	case errors.As(err, &exit):
		result.ExitCode = exit.ExitCode()
		return result, r.failure(guest, result)
	}
	return result, err
}

// failure tells a client that failed from a command that did: the client has a word
// for it, or a status that only a missing program has.
func (r *Runtime) failure(guest string, result reset.Result) error {
	if result.ExitCode == exitNotFound || result.ExitCode == exitNotExecutable {
		return reset.As(reset.ErrNoCommand, fmt.Errorf("%s ended with status %d", r.client, result.ExitCode))
	}
	if strings.HasPrefix(string(result.Output), "Error:") {
		if err := r.explain(guest, result.Output, nil); err != nil {
			return err
		}
	}
	return nil
}

// explain gives a meaning to what the client said; if it has none, it is err.
func (r *Runtime) explain(guest string, said []byte, err error) error {
	for words, meaning := range r.meanings {
		if bytes.Contains(said, []byte(words)) {
			return reset.As(meaning, fmt.Errorf("%s: %s: %s", r.client, guest, bytes.TrimSpace(said)))
		}
	}
	return err
}

// run runs the client until it ends or ctx does. Its errors are those of os/exec, and
// reset.ErrUnavailable if there is no client.
func (r *Runtime) run(ctx context.Context, guest, file string, c reset.Command, out, said interface{ Write([]byte) (int, error) }) error {
	cmd := exec.CommandContext(ctx, r.client, r.arguments(guest, file, c)...)
	cmd.Stdout, cmd.Stderr = out, said
	cmd.WaitDelay = drainLimit
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return reset.As(reset.ErrUnavailable, fmt.Errorf("the client of the container runtime cannot be run: %w", err))
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // it has ended well, only its output is still held open
	}
	return err
}

// environmentFile writes the variables to a file that only this user can read.
func (r *Runtime) environmentFile(environment []string) (name string, remove func(), err error) {
	nothing := func() {}
	if !r.files || len(environment) == 0 {
		return "", nothing, nil
	}
	var text strings.Builder
	for _, entry := range environment {
		if strings.ContainsAny(entry, "\r\n") {
			return "", nothing, fmt.Errorf("a variable has a line break in it, which %s cannot pass on", r.client)
		}
		text.WriteString(entry + "\n")
	}
	f, err := os.CreateTemp("", "sluice-env-")
	if err != nil {
		return "", nothing, err
	}
	_, err = f.WriteString(text.String())
	if err = errors.Join(err, f.Close()); err != nil {
		return "", nothing, errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), func() { _ = os.Remove(f.Name()) }, nil
}
