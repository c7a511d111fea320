package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/netns"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// upstreamAddr is where the simulator listens, in a network namespace that has
// no way out (RFC 5737).
const upstreamAddr = "192.0.2.10"

// startLimit is how long a daemon may take to serve, or to end.
const startLimit = 20 * time.Second

// The scripts in testdata/kernel drive the real daemon, with the real kernel and
// a simulated upstream.
func TestProduct(t *testing.T) {
	t.Parallel()
	kerneltest.Require(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/kernel", RequireExplicitExec: true, Setup: func(e *testscript.Env) error { return setUpProduct(t, e) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": daemonCommand, "until": untilCommand, "nopins": noPinsCommand,
		},
	})
}

// setUpProduct gives a script a namespace with an upstream in it, and paths of
// its own for everything that a daemon has.
func setUpProduct(t *testing.T, e *testscript.Env) error {
	if err := isolate(e); err != nil {
		return err
	}
	e.Values[processKey{}] = new(process)
	name := fmt.Sprintf("sluice-test-%d-%s", os.Getpid(), strings.ReplaceAll(filepath.Base(e.WorkDir), "script-", ""))
	if err := ip("netns", "add", name); err != nil {
		return err
	}
	e.Defer(func() { _ = ip("netns", "del", name) })
	for _, args := range [][]string{
		{"-n", name, "link", "set", "lo", "up"},
		{"-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1"},
		{"-n", name, "addr", "add", upstreamAddr + "/24", "dev", "v0"},
		{"-n", name, "link", "set", "v0", "up"},
		{"-n", name, "link", "set", "v1", "up"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	if err := startUpstream(t, e, filepath.Join("/run/netns", name)); err != nil {
		return err
	}
	pins := filepath.Join(kerneltest.BPFFS(t), name)
	e.Defer(func() { _ = os.RemoveAll(pins) })
	e.Setenv("NETNS", filepath.Join("/run/netns", name))
	e.Setenv("UPSTREAM", upstreamAddr)
	e.Setenv("CGROUP", kerneltest.Cgroup(t))
	e.Setenv("PINS", pins)
	e.Setenv("STATE", filepath.Join(e.WorkDir, "state"))
	config := fmt.Sprintf("pin_dir = %q\nupstream_roots = %q\ndrain_time = \"2s\"\n", e.Getenv("PINS"), filepath.Join(e.WorkDir, "upstream.pem"))
	return os.WriteFile(filepath.Join(e.WorkDir, "config.toml"), []byte(config), 0o600)
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// startUpstream starts a simulator that knows the secrets sk-first (two requests,
// then refused for an hour) and sk-second (no limit).
func startUpstream(t *testing.T, e *testscript.Env, namespace string) error {
	ns, err := netns.Open(namespace)
	if err != nil {
		return err
	}
	e.Defer(func() { ns.Close() })
	listener, err := ns.Listen(t.Context(), "tcp4", upstreamAddr+":443")
	if err != nil {
		return err
	}
	sim, err := simulator.New(simulator.Options{
		Listeners: []net.Listener{listener},
		Credentials: []simulator.Credential{
			{Name: "first", Secret: "sk-first", Behaviour: simulator.Behaviour{Quota: 2, Window: simulator.Duration(time.Hour)}},
			{Name: "second", Secret: "sk-second"},
		},
	})
	if err != nil {
		return err
	}
	if err := sim.Start(context.Background()); err != nil {
		return err
	}
	e.Defer(func() { _ = sim.Close() })
	admin := httptest.NewServer(sim.Admin())
	e.Defer(admin.Close)
	e.Setenv("ADMIN", admin.URL)
	return os.WriteFile(filepath.Join(e.WorkDir, "upstream.pem"), sim.CA(), 0o600)
}

// process is the daemon that a script has started last; its zero value is none.
type process struct {
	files []*os.File // that the next one is passed, from descriptor 3 on
	cmd   *exec.Cmd
	log   *log
	done  chan error    // gets what Wait said
	ended chan struct{} // closed after that
}

// processKey is where testscript keeps a script's *process.
type processKey struct{}

// daemonCommand is `daemon start`, `daemon stop SIGNAL` and `daemon log TEXT`.
func daemonCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 || neg && args[0] != "log" {
		ts.Fatalf("usage: daemon start | stop SIGNAL | [!] daemon log TEXT")
	}
	running := ts.Value(processKey{}).(*process)
	switch {
	case args[0] == "start":
		ts.Check(running.start(ts))
	case running.cmd == nil:
		ts.Fatalf("no daemon has been started")
	case args[0] == "log" && len(args) == 2:
		if strings.Contains(running.log.String(), args[1]) == neg {
			ts.Fatalf("that the log has %q is %v:\n%s", args[1], neg, running.log)
		}
	case args[0] == "stop" && len(args) == 2:
		signal := unix.SignalNum("SIG" + args[1])
		ts.Check(running.cmd.Process.Signal(signal))
		select {
		case err := <-running.done:
			if signal != syscall.SIGKILL && err != nil {
				ts.Fatalf("the daemon ended with %v:\n%s", err, running.log)
			}
		case <-time.After(startLimit):
			ts.Fatalf("the daemon does not end:\n%s", running.log)
		}
	default:
		ts.Fatalf("usage: daemon start | stop SIGNAL | [!] daemon log TEXT")
	}
}

// start starts a daemon of a script's and waits until it serves.
func (p *process) start(ts *testscript.TestScript) error {
	ts.Defer(p.kill)
	return p.launch(ts.MkAbs("."), ts.MkAbs("config.toml"), ts.Getenv("STATE"), ts.Getenv("SLUICE_SOCKET"))
}

// launch starts a daemon and waits until it serves.
func (p *process) launch(dir, config, state, socket string, through ...string) error {
	if err := p.spawn(dir, config, state, socket, through...); err != nil {
		return err
	}
	select {
	case <-p.log.listening:
		return nil
	case <-p.ended:
		return fmt.Errorf("the daemon ended:\n%s", p.log)
	case <-time.After(startLimit):
		return fmt.Errorf("the daemon does not serve:\n%s", p.log)
	}
}

// spawn starts a daemon.
func (p *process) spawn(dir, config, state, socket string, through ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	*p = process{files: p.files, log: newLogBuffer(), done: make(chan error, 1), ended: make(chan struct{})}
	p.cmd = exec.Command(self, "serve", "--config", config, "--state-dir", state)
	p.cmd.Args[0] = "sluice"
	if len(through) > 0 {
		argv := append(slices.Clone(through), filepath.Join(dir, "sluice")) // which newEmptyHouse has made
		p.cmd = exec.Command(argv[0], append(argv[1:], p.cmd.Args[1:]...)...)
	}
	p.cmd.Dir = dir
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SLUICE_SOCKET=" + socket}
	p.cmd.Stderr = p.log
	p.cmd.ExtraFiles = p.files
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	waited, err := begin(p.cmd)
	if err != nil {
		return err
	}
	done, ended := p.done, p.ended
	go func() {
		done <- <-waited
		close(ended)
	}()
	return nil
}

// begin starts a command that has a Pdeathsig, and gives what Wait says. The signal is sent when the thread ends that was
// the parent, and threads that have entered a namespace do: this one stays.
func begin(cmd *exec.Cmd) (waited <-chan error, err error) {
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if started <- err; err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}

// kill ends the daemon, if it was started and still runs, and waits for its end.
func (p *process) kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// log keeps what a daemon logs, and tells when it serves.
type log struct {
	mu        sync.Mutex
	text      bytes.Buffer
	listening chan struct{}
	once      sync.Once
}

func newLogBuffer() *log { return &log{listening: make(chan struct{})} }

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.text.Write(p)
	if bytes.Contains(l.text.Bytes(), []byte("msg=listening")) {
		l.once.Do(func() { close(l.listening) })
	}
	return n, err
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// untilCommand repeats a command until it succeeds: `until [!] CMD ARG...`.
func untilCommand(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(startLimit)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v still ends with %v", args, err)
		}
	}
}

// noPinsCommand fails if anything is left under the pin directory.
func noPinsCommand(ts *testscript.TestScript, neg bool, _ []string) {
	left := 0
	_ = filepath.WalkDir(ts.Getenv("PINS"), func(string, os.DirEntry, error) error { left++; return nil })
	dir, err := os.Open(ts.Getenv("PINS"))
	if err == nil {
		_, err = dir.Readdirnames(1)
		dir.Close()
	}
	empty := os.IsNotExist(err) || err == io.EOF
	if empty == neg {
		ts.Fatalf("pins left in %s: %v (%d entries)", ts.Getenv("PINS"), !empty, left)
	}
}
