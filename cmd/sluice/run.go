package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/control/api"
)

func (c *cli) runCommand() *cobra.Command {
	var pools []string
	var as string
	cmd := &cobra.Command{
		Use:   "run [--pool NAME]... [--user U[:G]] -- CMD ARG...",
		Short: "Run a command whose API traffic goes through the pools",
		Long: `Runs a command in a cgroup of its own that is attached before the command starts. The command trusts the CA: the
system's certificate bundles are seen with it added, by this command and its children only. Where the variable of a
provider is unset (OPENAI_API_KEY and the like) it holds a placeholder. Where a variable names a proxy (HTTPS_PROXY and the
like), NO_PROXY names the pools' hosts besides what it had: what goes through a proxy cannot be intercepted.

Input, output, signals and the exit status pass through; the command cannot type into its own terminal (TIOCSTI), whose shell
is not intercepted, nor open AF_VSOCK sockets, nor use io_uring. Under sudo it runs as the user who called sudo, unless --user says
otherwise. When it ends, what it left running is named and killed, and the target is detached.

The exit status is the command's, 128+N if signal N ended it, 127 if it was not found, 126 if it cannot be executed.`,
		Example: `  sudo sluice run -- python agent.py
  sudo sluice run --pool main --user agent -- codex exec "fix the tests"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return usageError{"sluice run needs a command, as in 'sluice run -- python agent.py'"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.runTarget(cmd.Context(), pools, as, args)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringArrayVar(&pools, "pool", nil, "only the pool of this `NAME` serves the command; may be given several times")
	cmd.Flags().StringVar(&as, "user", "", "user to run as, `USER[:GROUP]` by name or number")
	c.completeFlag(cmd, "pool", c.poolNames)
	return cmd
}

// stage is what the second half of `run`, in the new mount namespace, is told.
type stage struct {
	Argv        []string          `json:"argv"`
	Identity    identity          `json:"identity"`
	Environment map[string]string `json:"environment"` // placeholders, set where unset
	CA          []byte            `json:"ca"`          // PEM
	Hosts       []string          `json:"hosts"`       // of the pools
}

// runTarget does what `run` promises, and undoes it.
func (c *cli) runTarget(ctx context.Context, pools []string, as string, argv []string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("run: a cgroup and a mount namespace have to be made, which needs root: use 'sudo sluice run'")
	}
	who, err := runAs(as, c.getenv)
	if err != nil {
		return err
	}
	client, err := api.Dial(c.socketPath()) // the cgroup is on this host: so must the daemon be
	if err != nil {
		return err
	}
	defer client.Close()
	// From here on a signal must not end sluice before it has cleaned up.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, heard(passedOn)...)
	defer signal.Stop(signals)

	early, begin := untilBegun(ctx, signals)
	defer begin()

	scope, err := newScope()
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	defer func() { err = errors.Join(err, scope.remove(c.stderr)) }()
	// Told who fills it, the daemon listens in our network namespace before it answers: else the command could be quicker.
	spec := api.TargetSpec{Cgroup: &scope.path, Pid: optional(os.Getpid()), Transient: optional(true)}
	if len(pools) > 0 {
		spec.Pools = &pools
	}
	id, told, err := prepare(early, client, spec)
	if id != "" {
		defer func() { err = errors.Join(err, c.detachScope(ctx, client, scope, id)) }()
	}
	if by := begin(); by != nil {
		fmt.Fprintf(c.stderr, "sluice: run: %s: the command was not started\n", by)
		return statusError{128 + int(by.(syscall.Signal))}
	}
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	told.Argv, told.Identity = argv, who
	return c.start(scope, signals, told)
}

// untilBegun gives what comes before the command a context that ends with the first signal: who waits for a daemon that does not
// answer need not wait on. begin says which one that was, nil if there was none; further ones are the command's.
func untilBegun(ctx context.Context, signals <-chan os.Signal) (early context.Context, begin func() os.Signal) {
	early, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	var by os.Signal
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case by = <-signals:
			cancel()
		case <-done:
		}
	})
	return early, sync.OnceValue(func() os.Signal {
		close(done)
		watch.Wait()
		cancel()
		if by != nil {
			return by
		}
		select {
		case by = <-signals:
		default:
		}
		return by
	})
}

// prepare attaches the cgroup, and asks for what the command is told. With an id the cgroup is attached, whatever the error.
func prepare(ctx context.Context, client *api.Client, spec api.TargetSpec) (id string, told stage, err error) {
	target, err := client.Attach(ctx, spec)
	if err != nil {
		return "", stage{}, fmt.Errorf("attach: %w", err)
	}
	ca, err := client.CA(ctx)
	if err != nil {
		return target.Id, stage{}, err
	}
	all, err := client.Pools(ctx)
	if err != nil {
		return target.Id, stage{}, err
	}
	var pools []string
	if spec.Pools != nil {
		pools = *spec.Pools
	}
	return target.Id, stage{Environment: maps.Clone(target.Environment), CA: ca, Hosts: takenHosts(all, pools)}, nil
}

// detachLimit is how long the end of a run waits for a daemon that is away.
const detachLimit = 10 * time.Second

// detachScope empties the cgroup first, so that nothing is ever left running
// without the interception that it was started with.
func (c *cli) detachScope(ctx context.Context, client *api.Client, s *scope, id string) error {
	if err := s.empty(c.stderr); err != nil {
		return err
	}
	// A socket that systemd keeps for the next daemon answers nobody until that is there.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachLimit)
	defer cancel()
	err := client.Detach(ctx, id)
	if err != nil && !notFound(err) { // then the daemon saw the cgroup become empty before we said so
		// No fault of the agent's, whose status is what counts: an empty cgroup is let go of anyway.
		fmt.Fprintf(c.stderr, "sluice: run: detach %s: %v; the daemon does it once it is back\n", id, err)
	}
	return nil
}

// start runs the second stage inside the scope and waits for it.
func (c *cli) start(s *scope, signals <-chan os.Signal, told stage) error {
	cgroup, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	defer cgroup.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	defer write.Close()
	child := exec.Command("/proc/self/exe", execName)
	child.Args[0] = "sluice"
	child.Stdin, child.Stdout, child.Stderr = c.stdin, c.stdout, c.stderr
	child.ExtraFiles = []*os.File{read}
	child.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Cloneflags: unix.CLONE_NEWNS,
	}
	stops := make(chan os.Signal, 1)
	signal.Notify(stops, syscall.SIGCHLD)
	defer signal.Stop(stops)
	err = child.Start()
	read.Close()
	if err != nil {
		return fmt.Errorf("run: start in cgroup %s: %w", s.path, err)
	}
	// A stage that dies before it has read everything says why on standard
	// error, and its status is what counts.
	writeErr := json.NewEncoder(write).Encode(told)
	write.Close()
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case got := <-signals:
			forward(child.Process, got)
		case <-stops:
			stopWith(child.Process)
		case err := <-ended:
			return passed(child.ProcessState, errors.Join(err, writeErr))
		}
	}
}

// passedOn are the signals that end or concern the command rather than sluice.
// SIGTSTP and SIGCONT do their ordinary work on both.
var passedOn = []os.Signal{
	syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
}

// heard leaves out what is ignored, under nohup, say: the command inherits that, and stays deaf to it.
func heard(signals []os.Signal) []os.Signal {
	return slices.DeleteFunc(slices.Clone(signals), signal.Ignored)
}

// forward passes a signal on. What a terminal sends with Ctrl-C or Ctrl-\ goes
// to its whole foreground process group, so the command has it already.
func forward(p *os.Process, got os.Signal) {
	if (got == syscall.SIGINT || got == syscall.SIGQUIT) && inForeground() {
		return
	}
	// An error says that it has ended: Wait tells.
	_ = p.Signal(got)
}

// stopWith stops sluice too if its command has stopped. Ctrl-Z stops the whole process group, but a command that takes that
// key itself may stop nobody else (Claude Code), and a shell waits for sluice. What continues the group, as fg does, continues both.
func stopWith(p *os.Process) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, p.Pid, &info, unix.WSTOPPED|unix.WNOHANG, nil); err != nil || info.Signo == 0 || !inForeground() {
		return
	}
	// Unlike SIGSTOP it does nothing where no shell is left to continue us. Sent to this thread it has stopped all by the time that the call returns.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGTSTP)
}

// inForeground says whether sluice is what the controlling terminal's keys act on.
func inForeground() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// passed makes the command's end sluice's own.
func passed(state *os.ProcessState, err error) error {
	if state == nil {
		return fmt.Errorf("run: %w", err)
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return statusError{128 + int(status.Signal())}
	case state.ExitCode() > 0:
		return statusError{state.ExitCode()}
	}
	// An error in spite of status 0 is that of a copied stream.
	if err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}
