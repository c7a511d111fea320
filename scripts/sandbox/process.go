package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a process may take to end after SIGTERM.
const patience = 15 * time.Second

// Environment is all that the children get: the usual PATH, and HOME.
func Environment(home string) []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home}
}

// Signals is a context that ends when the program is asked to end. Call it in
// main's goroutine: `go run` does not pass SIGTERM on, so its end is one of the
// ways to be asked, and that is told to the thread that asks for it.
//
// os.Stdout and os.Stderr become copies under other numbers: for 1 and 2 the
// runtime ends the program when nobody reads any more, and nothing is cleaned up.
func Signals() (context.Context, context.CancelFunc) {
	for _, f := range []**os.File{&os.Stdout, &os.Stderr} {
		if fd, err := unix.FcntlInt((*f).Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			*f = os.NewFile(uintptr(fd), (*f).Name())
		}
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "sandbox: parent-death signal: %v\n", err) // the program works without
	}
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
}

// Process is a child that is waited for.
type Process struct {
	cmd   *exec.Cmd
	what  string
	ended chan struct{}
	err   error // valid once ended is closed
}

// Start starts a command; start is cmd.Start, or something that calls it.
func Start(what string, cmd *exec.Cmd, start func() error) (*Process, error) {
	if err := start(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	p := &Process{cmd: cmd, what: what, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Ended is closed when it has ended; then Err is how.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err is how it ended; only valid once Ended is closed.
func (p *Process) Err() error { return p.err }

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stop asks it to end and insists after 15 s.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.what, err)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
	}
	err := p.cmd.Process.Kill()
	<-p.ended
	return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM and was killed", p.what, patience), err)
}
