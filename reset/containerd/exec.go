package containerd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/reset/inside"
)

const (
	// markName is a variable by which a command's children are known as such.
	markName = "SLUICE_RESET"
	// limitMark begins a limit of realtime that is none (some 250 years of it): by that those children are known that clear
	// their environment. The runtime's and the command's own bits follow. A float64 holds all of them.
	limitMark, limitBits = 0x1ce, 22
	// drainLimit is how long the last of the output may take to arrive.
	drainLimit = 500 * time.Millisecond
	// reconnect is the time between two tries to hear of a command's end while
	// containerd is away.
	reconnect = 200 * time.Millisecond
)

// Exec implements [reset.Runtime].
func (r *Runtime) Exec(ctx context.Context, ref string, c reset.Command) (_ reset.Result, err error) {
	// Calls have limits of their own: that ctx has ended must not leave a command behind.
	life := context.WithoutCancel(ctx)
	first, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	named, b, err := r.open(first, ref)
	if err != nil {
		return reset.Result{}, err
	}
	spec, err := b.container.Spec(named)
	if err != nil {
		return reset.Result{}, b.explain(err)
	}
	cgroup, err := inside.Cgroup(int(b.task.Pid()))
	if err != nil {
		return reset.Result{}, b.notRunning("has ended")
	}
	if err := inside.KillMarked(cgroup, markName, r.orphaned); err != nil {
		return reset.Result{}, fmt.Errorf("container %s: what an earlier daemon has left: %w", ref, err)
	}
	e := &execution{box: b, id: "sluice-" + r.instance + "-" + rand.Text()[:8], cgroup: cgroup, command: c, log: r.opts.Log}
	if has, err := inside.TimeLimit(int(b.task.Pid())); err == nil && has == math.MaxUint64 { // one that is lower cannot be raised
		e.limit = (limitMark<<limitBits|bits(r.instance))<<limitBits | bits(e.id)
	}
	if namespace, ok := namespaces.Namespace(named); ok {
		life = namespaces.WithNamespace(life, namespace)
	}
	began := time.Now()
	if err := e.start(life, spec, r.opts.FIFODir); err != nil {
		return reset.Result{}, err
	}
	defer func() { err = errors.Join(err, e.close(life)) }()
	result, err := e.await(ctx, life)
	err = errors.Join(err, e.sweep())
	e.drain()
	result.Output, result.Took = e.output.Bytes(), time.Since(began)
	return result, err
}

// orphaned tells by its marks whether a command is of another runtime: only one daemon
// resets the agents of a host, so that is one that was killed. Its time-out died with it.
func (r *Runtime) orphaned(mark string, limit uint64) bool {
	if strings.HasPrefix(mark, "sluice-") {
		return !strings.HasPrefix(mark, "sluice-"+r.instance+"-")
	}
	return limit>>(2*limitBits) == limitMark && limit>>limitBits != limitMark<<limitBits|bits(r.instance)
}

// bits are what a limit has of a name.
func bits(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint64(sum[:]) >> (64 - limitBits)
}

// execution is one command in a container.
type execution struct {
	*box
	id      string
	limit   uint64 // 0: the container has one of its own
	cgroup  string // of the container
	command reset.Command
	log     *slog.Logger
	process client.Process
	exited  <-chan client.ExitStatus
	output  reset.Output
}

// mark is the variable that the command and its children have.
func (e *execution) mark() string { return markName + "=" + e.id }

// specification is the container's process turned into the command: what confines the
// one confines the other, but it has no capabilities and gains none by what it executes.
func (e *execution) specification(spec *specs.Process) *specs.Process {
	p := *spec
	p.Args = e.command.Argv
	p.CommandLine, p.Terminal, p.ConsoleSize = "", false, nil
	p.User = specs.User{UID: e.command.UID, GID: e.command.GID}
	p.Capabilities, p.NoNewPrivileges = &specs.LinuxCapabilities{}, true
	p.Env = append(slices.Clone(e.command.Environment), e.mark())
	if e.limit != 0 {
		p.Rlimits = append(slices.Clone(p.Rlimits), specs.POSIXRlimit{Type: "RLIMIT_RTTIME", Soft: e.limit, Hard: e.limit})
	}
	p.Cwd = "/" // the container's own may be closed to the user
	return &p
}

// start begins the command. If it fails nothing is left of it.
func (e *execution) start(life context.Context, spec *specs.Spec, fifos string) (err error) {
	if spec.Process == nil {
		return fmt.Errorf("container %s has no process in its specification", e.ref)
	}
	ctx, cancel := context.WithTimeout(life, callLimit)
	defer cancel()
	streams := []cio.Opt{cio.WithStreams(nil, &e.output, &e.output)}
	if fifos != "" {
		streams = append(streams, cio.WithFIFODir(fifos))
	}
	if e.process, err = e.task.Exec(ctx, e.id, e.specification(spec.Process), cio.NewCreator(streams...)); err != nil {
		return e.startError(life, err)
	}
	// Waiting begins before the start: an end in between would not be heard of. It goes
	// on for as long as the command does.
	e.exited, err = e.process.Wait(life)
	if err == nil {
		err = e.process.Start(ctx)
	}
	if err != nil {
		return errors.Join(e.startError(life, err), e.close(life))
	}
	return nil
}

// startError knows what runc says of a program that is not there (in the words of the
// kernel and of os/exec). What it says of a container that ends meanwhile is manifold:
// there the container is asked.
func (e *execution) startError(life context.Context, err error) error {
	text := err.Error()
	if !isAway(err) && e.ended(life) {
		return e.notRunning("ended when the command was to be started: " + text)
	}
	for _, missing := range []string{"no such file or directory", "executable file not found", "permission denied", "exec format error", "not a directory"} {
		if strings.Contains(text, missing) && strings.Contains(text, "exec") && !isAway(err) {
			return fmt.Errorf("%w in container %s: %s", reset.ErrNoCommand, e.ref, text)
		}
	}
	return e.explain(err)
}

// ended says whether the container that was opened does not run any more, be it that it
// was started again.
func (e *execution) ended(life context.Context) bool {
	ctx, cancel := context.WithTimeout(life, callLimit)
	defer cancel()
	task, err := e.container.Task(ctx, nil)
	if err != nil {
		return errdefs.IsNotFound(err)
	}
	status, err := task.Status(ctx)
	return task.Pid() != e.task.Pid() || errdefs.IsNotFound(err) || err == nil && status.Status != client.Running
}

// await waits for the command's end and kills it when its time is up or ctx ends.
func (e *execution) await(ctx, life context.Context) (reset.Result, error) {
	limit := time.NewTimer(e.command.Timeout)
	defer limit.Stop()
	var result reset.Result
	for {
		select {
		case status := <-e.exited:
			code, _, err := status.Result()
			if err == nil {
				result.ExitCode = int(code)
				return result, nil
			}
			if !isAway(err) {
				return result, e.explain(err)
			}
			// containerd has gone; the command has not, its shim looks after it.
			e.exited = e.again(life)
		case <-limit.C:
			result.TimedOut = true
			return result, e.kill()
		case <-ctx.Done():
			return result, errors.Join(ctx.Err(), e.kill())
		}
	}
}

// again waits for the command's end once more, when containerd is back.
func (e *execution) again(life context.Context) <-chan client.ExitStatus {
	ctx, cancel := context.WithTimeout(life, reconnect)
	defer cancel()
	if _, err := e.task.Status(ctx); err == nil {
		if exited, err := e.process.Wait(life); err == nil {
			return exited
		}
	}
	<-ctx.Done()
	lost := make(chan client.ExitStatus, 1)
	lost <- *client.NewExitStatus(client.UnknownExitStatus, time.Time{}, errdefs.ErrUnavailable)
	return lost
}

// kill kills the command with its session, by the kernel and not by containerd, which
// may be away. Containerd's own kill would leave children to the container.
func (e *execution) kill() error {
	pid := int(e.process.Pid())
	if pid <= 1 {
		return nil
	}
	if err := unix.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the command: %w", err)
	}
	return nil
}

// sweep kills what the command has left, children that left its session included.
func (e *execution) sweep() error {
	return inside.KillMarked(e.cgroup, markName, func(value string, limit uint64) bool {
		return value == e.id || e.limit != 0 && limit == e.limit
	})
}

// drain waits for the last of the output, but not for somebody who holds it open.
func (e *execution) drain() {
	done := make(chan struct{})
	go func() {
		e.process.IO().Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(drainLimit):
		e.process.IO().Cancel()
		<-done
	}
}

// close takes the command away from containerd. dockerd does so too with every process
// in its namespace: that it is gone already is no error.
func (e *execution) close(life context.Context) error {
	ctx, cancel := context.WithTimeout(life, callLimit)
	defer cancel()
	_, err := e.process.Delete(ctx, client.WithProcessKill)
	if err == nil {
		return nil
	}
	// Delete has given up before it closed the FIFOs.
	streams := e.process.IO()
	streams.Cancel()
	streams.Wait()
	closed := streams.Close()
	if !errdefs.IsNotFound(err) {
		// It takes nothing from how the command ended, and is gone with its container.
		e.log.Debug("a command stays known to containerd", "container", e.ref, "error", err)
	}
	return closed
}
