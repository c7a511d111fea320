package scope

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/reset/inside"
)

// drainLimit is how long the last of the output may take to be read.
const drainLimit = 500 * time.Millisecond

// started is what became of the start of a command.
type started struct {
	process *os.Process
	err     error
}

// run runs a command in the cgroup and kills what is left of it, at the latest when
// its time is up or ctx ends.
func (c *child) run(ctx context.Context, in *namespaces, what reset.Command) (reset.Result, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return reset.Result{}, err
	}
	defer func() { _ = null.Close() }()
	read, write, err := os.Pipe()
	if err != nil {
		return reset.Result{}, err
	}
	defer func() { _ = read.Close() }()
	began := time.Now()
	running, ended := make(chan started, 1), make(chan struct{})
	defer close(ended)
	go offFirstThread(func() { c.start(in, what, []*os.File{null, write, write}, running, ended) })
	s := <-running
	_ = write.Close()
	if s.err != nil {
		return reset.Result{}, s.err
	}
	var output reset.Output
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(&output, read)
	}()
	result, err := c.await(ctx, s.process, what.Timeout)
	// Whoever the command left behind has been killed, so what was written can be read. A process of the same user
	// that is none of those may have opened the pipe by /proc: it is not waited for.
	_ = read.SetReadDeadline(time.Now().Add(drainLimit))
	<-copied
	result.Output, result.Took = output.Bytes(), time.Since(began)
	return result, err
}

// await waits for the command and leaves nothing of it behind.
func (c *child) await(ctx context.Context, p *os.Process, limit time.Duration) (reset.Result, error) {
	done := make(chan *os.ProcessState, 1)
	go func() {
		state, _ := p.Wait()
		done <- state
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var result reset.Result
	var state *os.ProcessState
	var err error
	select {
	case state = <-done:
	case <-timer.C:
		result.TimedOut = true
	case <-ctx.Done():
		err = ctx.Err()
	}
	err = errors.Join(err, inside.KillAll(c.path))
	if state == nil {
		state = <-done
	}
	if state != nil {
		result.ExitCode = status(state)
	}
	return result, err
}

// status is an exit status as a shell has it: 128 and the number of the signal.
func status(state *os.ProcessState) int {
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return state.ExitCode()
}

// offFirstThread calls f on any thread but the process's first. That one outlives the
// goroutine that was locked to it, and what is changed of it shows in /proc/self. The
// thread is f's alone and is never used for anything else.
func offFirstThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // another one: the first is taken
		f()
	}()
	<-done
	runtime.UnlockOSThread()
}

// start starts the command from a thread of its own, to which it is locked and which
// ends with it. What is changed of the thread
// (namespaces, no_new_privs, the bounding set) is what the command begins with; the
// thread stays until the command has ended, because the command is killed when the
// thread that started it ends.
func (c *child) start(in *namespaces, what reset.Command, files []*os.File, began chan<- started, ended <-chan struct{}) {
	process, err := c.startHere(in, what, files)
	began <- started{process, err}
	<-ended
}

func (c *child) startHere(in *namespaces, what reset.Command, files []*os.File) (*os.Process, error) {
	if err := in.enter(); err != nil {
		return nil, fmt.Errorf("enter the agent's namespaces: %w", err)
	}
	path, err := lookPath(what.Argv[0], what.Environment)
	if err != nil {
		return nil, err
	}
	if err := giveUp(); err != nil {
		return nil, fmt.Errorf("give up capabilities: %w", err)
	}
	process, err := os.StartProcess(path, what.Argv, &os.ProcAttr{
		Dir: "/", Env: what.Environment, Files: files,
		Sys: &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: what.UID, Gid: what.GID}, // and no further groups
			Setsid:     true, Pdeathsig: syscall.SIGKILL,
			UseCgroupFD: true, CgroupFD: int(c.dir.Fd()), // CLONE_INTO_CGROUP, Linux 5.7
		},
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOEXEC) {
		return nil, fmt.Errorf("%w: %s", reset.ErrNoCommand, err)
	}
	return process, err
}

// enter moves this thread into the namespaces.
func (n *namespaces) enter() error {
	if n.net != nil {
		if err := unix.Setns(int(n.net.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
	}
	if n.mnt == nil {
		return nil
	}
	// Threads share root and working directory, and who shares them cannot change the
	// mount namespace (setns(2)).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(int(n.mnt.Fd()), unix.CLONE_NEWNS)
}

// giveUp lets nothing that this thread starts have a capability, be it started as root.
func giveUp() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // past the last one that the kernel knows
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lookPath finds a program in this thread's mount namespace by the command's PATH.
func lookPath(name string, environment []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, entry := range environment {
		value, ok := strings.CutPrefix(entry, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(value) {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); filepath.IsAbs(path) && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%w: there is no %s in PATH", reset.ErrNoCommand, name)
}
