package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/reset/inside"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

const (
	hermes = "/usr/bin/hermes"
	// authFile is what the stand-in remembers.
	authFile = "/home/agent/.hermes/auth.json"
	latched  = `{"version":1,"credential_pool":{"openai-codex":[{"id":"a","last_status":"exhausted","last_error_reset_at":"2099-01-01T00:00:00Z"}]}}`
)

// newBox is a containerd whose image has the stand-in, with its file latched.
func newBox(t *testing.T) (*containerbox.Box, *Runtime) {
	t.Helper()
	b := containerbox.New(t, containerbox.Options{
		Programs: map[string]string{hermes: "github.com/sluice-proxy/sluice/scripts/containerbox/hermes"},
		Files:    map[string]containerbox.File{authFile: {Body: []byte(latched), Mode: 0o600, UID: containerbox.Agent}},
	})
	// The image's folder came with the file: it is the agent's as well.
	return b, New(Options{Client: b.Client, FIFODir: filepath.Join(t.TempDir(), "fifo")})
}

func command(argv ...string) reset.Command {
	return reset.Command{
		Argv: argv, UID: containerbox.Agent, GID: containerbox.Agent, Timeout: 20 * time.Second,
		Environment: []string{"PATH=/usr/bin:/bin", "HOME=/home/agent", "USER=agent"},
	}
}

func TestCommandInEveryKindOfContainer(t *testing.T) {
	b, r := newBox(t)
	pair := kerneltest.NewPair(t)
	for name, o := range map[string]containerbox.ContainerOptions{
		"overlayfs": {}, "native": {Snapshotter: "native"}, "netns": {NetNS: pair.Agent},
		"readonly": {ReadOnly: true}, "agents-own": {UID: containerbox.Agent, Env: []string{"OF=container"}},
		"deaf": {Args: containerbox.Deaf()},
	} {
		t.Run(name, func(t *testing.T) {
			c := b.Run(name, o)
			got, err := r.Exec(t.Context(), name, command("sh", "-c", `id -u; id -g; id -G; pwd; echo $HOME $USER ${OF:-}
				grep -E '^(Cap...|NoNewPrivs):' /proc/self/status; touch /x 2>&1; exit 5`))
			if err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(string(got.Output), "\t", " ")
			want := "10000\n10000\n10000\n/\n/home/agent agent\n"
			for _, set := range []string{"Inh", "Prm", "Eff", "Bnd", "Amb"} {
				want += "Cap" + set + ": 0000000000000000\n"
			}
			if want += "NoNewPrivs: 1\n"; !strings.HasPrefix(text, want) || got.ExitCode != 5 || got.TimedOut {
				t.Errorf("%d %q, want %q", got.ExitCode, text, want)
			}
			env, err := r.Environment(t.Context(), name, 10000)
			if err != nil || strings.Contains(strings.Join(env, " "), "OF=container") != (len(o.Env) > 0) {
				t.Errorf("%q, %v", env, err)
			}
			alone(t, c)
		})
	}
}

// alone fails the test unless the container's cgroup has only what was there before.
func alone(t *testing.T, c *containerbox.Container) {
	t.Helper()
	pids, err := inside.Processes(c.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		env, _ := inside.Environment(pid)
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(strings.Join(env, " "), markName+"=") || strings.Contains(string(cmdline), "99") {
			t.Errorf("left behind: %d %q", pid, cmdline)
		}
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", c.PID())); err != nil {
		t.Errorf("the agent was killed: %v", err)
	}
}

// TestFileStaysTheAgents: the reset leaves a file that the agent can write.
func TestFileStaysTheAgents(t *testing.T) {
	b, r := newBox(t)
	c := b.Run("agent", containerbox.ContainerOptions{})
	c.Exec(0, "chown", "-R", "10000:10000", "/home/agent/.hermes")
	if text, err := r.ReadFile(t.Context(), "agent", authFile, 1<<20); err != nil || string(text) != latched {
		t.Fatalf("%q, %v", text, err)
	}
	got, err := r.Exec(t.Context(), "agent", command("hermes", "auth", "reset", "openai-codex"))
	if err != nil || got.ExitCode != 0 || string(got.Output) != "Reset status on 1 openai-codex credentials\n" {
		t.Fatalf("%+v, %v", got, err)
	}
	if text, err := r.ReadFile(t.Context(), "agent", authFile, 1<<20); err != nil || strings.Contains(string(text), "exhausted") {
		t.Errorf("%q, %v", text, err)
	}
	if said, _ := c.Exec(0, "stat", "-c", "%u:%g %a", authFile); said != "10000:10000 600\n" {
		t.Errorf("the file is %q", said)
	}
	if got, err := r.Exec(t.Context(), "agent", command("hermes", "auth", "reset", "no-such")); err != nil || got.ExitCode != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestTimeoutKillsTheCommandAndItsChildren(t *testing.T) {
	b, r := newBox(t)
	c := b.Run("agent", containerbox.ContainerOptions{})
	for name, script := range map[string]string{
		"ignores SIGTERM":   "trap '' TERM INT HUP; while :; do sleep 1; done",
		"children":          "sleep 991 & sleep 992 & wait",
		"left its session":  "setsid sleep 993 & sleep 994",
		"holds the output":  "(trap '' TERM; setsid sleep 995) & exec sleep 996",
		"cleared its names": "setsid env -i sleep 989.99 & (env -i setsid sh -c 'sleep 988.99 & sleep 987.99' &); sleep 9900",
	} {
		cmd := command("sh", "-c", "echo begun; "+script)
		cmd.Timeout = 700 * time.Millisecond
		got, err := r.Exec(t.Context(), "agent", cmd)
		if err != nil || !got.TimedOut || got.Took > 8*time.Second || string(got.Output) != "begun\n" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		alone(t, c)
	}
	cmd := command("sh", "-c", "setsid sleep 997 & env -i setsid sleep 986.99 & echo done")
	if got, err := r.Exec(t.Context(), "agent", cmd); err != nil || got.TimedOut || string(got.Output) != "done\n" {
		t.Errorf("in the background: %+v, %v", got, err)
	}
	alone(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := r.Exec(ctx, "agent", command("sleep", "998")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the end of the context: %v", err)
	}
	alone(t, c)
}

// TestOrphansAreKilled: a command of a daemon that was killed does not run on beside the
// next one's; another command of the same daemon does.
func TestOrphansAreKilled(t *testing.T) {
	b, r := newBox(t)
	c := b.Run("agent", containerbox.ContainerOptions{})
	var wait sync.WaitGroup
	start := func(by *Runtime, seconds string, want int) {
		wait.Go(func() {
			got, err := by.Exec(t.Context(), "agent", command("sleep", seconds))
			if err != nil || got.ExitCode != want {
				t.Errorf("sleep %s: %+v, %v, want status %d", seconds, got, err, want)
			}
		})
		running(t, c, "sleep\x00"+seconds)
	}
	dead := New(Options{Client: b.Client})
	start(dead, "996", 128+9)
	wait.Go(func() { // it has become nobody's child, and has nothing in its environment
		if _, err := dead.Exec(t.Context(), "agent", command("sh", "-c", "env -i setsid sleep 985.99 & exec env -i sleep 984.99")); err != nil {
			t.Error(err)
		}
	})
	running(t, c, "sleep\x00985.99")
	start(r, "3", 0)
	if got, err := r.Exec(t.Context(), "agent", command("true")); err != nil || got.ExitCode != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	wait.Wait()
	alone(t, c)
}

func TestOutputIsWholeAndBounded(t *testing.T) {
	b, r := newBox(t)
	b.Run("agent", containerbox.ContainerOptions{})
	for range 5 {
		got, err := r.Exec(t.Context(), "agent", command("sh", "-c", "head -c 60000 /dev/zero | tr '\\0' x"))
		if err != nil || len(got.Output) != 60000 {
			t.Errorf("%d bytes, %v", len(got.Output), err)
		}
	}
	got, err := r.Exec(t.Context(), "agent", command("sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 4"))
	if err != nil || len(got.Output) != reset.MaxOutput || got.ExitCode != 4 {
		t.Errorf("%d bytes, status %d, %v", len(got.Output), got.ExitCode, err)
	}
	hostile := "a; touch /tmp/x $(id) `id` \"' \\ *\n"
	if got, err := r.Exec(t.Context(), "agent", command("printf", "%s|", hostile, "")); err != nil || string(got.Output) != hostile+"||" {
		t.Errorf("%q, %v", got.Output, err)
	}
}

func TestWhatCannotBeReset(t *testing.T) {
	b, r := newBox(t)
	c := b.Run("agent", containerbox.ContainerOptions{})
	stopped := b.Run("stopped", containerbox.ContainerOptions{})
	stopped.Stop()
	for name, test := range map[string]struct {
		ref  string
		argv string
		want error
	}{
		"missing":        {"agent", "no-such-command", reset.ErrNoCommand},
		"missing path":   {"agent", "/opt/no/such", reset.ErrNoCommand},
		"not executable": {"agent", "/etc/passwd", reset.ErrNoCommand},
		"unknown":        {"nobody", "true", reset.ErrNotFound},
		"stopped":        {"stopped", "true", reset.ErrNotRunning},
	} {
		if _, err := r.Exec(t.Context(), test.ref, command(test.argv)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	elsewhere := New(Options{Client: b.Client, Find: func(context.Context, string) (Found, error) {
		return Found{}, reset.As(reset.ErrNotFound, errors.New("nobody has that name"))
	}})
	if _, err := elsewhere.Exec(t.Context(), "nobody", command("true")); !errors.Is(err, reset.ErrNotFound) || !strings.Contains(err.Error(), "nobody has") {
		t.Errorf("by a name that nobody has: %v", err)
	}
	if _, err := r.ReadFile(t.Context(), "agent", "/no/such", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := r.ReadFile(t.Context(), "stopped", "/etc/passwd", 10); !errors.Is(err, reset.ErrNotRunning) {
		t.Error(err)
	}
	alone(t, c)
}

// TestContainerdAway: the command goes on while containerd is killed and comes back,
// and without containerd it is said what is missing.
func TestContainerdAway(t *testing.T) {
	b, r := newBox(t)
	c := b.Run("agent", containerbox.ContainerOptions{})
	var wait sync.WaitGroup
	wait.Go(func() {
		ask := func() (reset.Result, error) {
			return r.Exec(t.Context(), "agent", command("sh", "-c", "sleep 3; echo done; exit 6"))
		}
		got, err := ask()
		for deadline := time.Now().Add(30 * time.Second); errors.Is(err, reset.ErrUnavailable) && time.Now().Before(deadline); {
			got, err = ask() // killed before it could answer that the command runs
		}
		if err != nil || got.ExitCode != 6 || got.TimedOut || got.Took > 15*time.Second {
			t.Errorf("%+v, %v", got, err)
		}
	})
	running(t, c, "sleep\x003")
	b.KillDaemon()
	b.StartDaemon()
	wait.Wait()
	alone(t, c)
	b.StopDaemon()
	other, err := client.New(b.Socket, client.WithDefaultNamespace(b.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := New(Options{Client: other}).Exec(ctx, "agent", command("true")); !errors.Is(err, reset.ErrUnavailable) {
		t.Errorf("without containerd: %v", err)
	}
	elsewhere := func(context.Context, string) (Found, error) {
		return Found{}, reset.As(reset.ErrNotFound, errors.New("Docker has none of that name"))
	}
	if _, err := New(Options{Client: other, Find: elsewhere}).Exec(ctx, "agent", command("true")); !errors.Is(err, reset.ErrUnavailable) {
		t.Errorf("without containerd, and asked of Docker: %v", err)
	}
	if _, err := New(Options{Client: b.Client, Find: elsewhere}).Environment(t.Context(), "agent", 0); !errors.Is(err, reset.ErrUnavailable) {
		t.Errorf("without containerd, and asked of Docker: %v", err)
	}
	b.StartDaemon()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, err := r.Exec(t.Context(), "agent", command("true"))
		if err == nil && got.ExitCode == 0 {
			return
		}
		// gRPC makes pauses between its tries to connect.
		if !errors.Is(err, reset.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatalf("with containerd again: %+v, %v", got, err)
		}
	}
}

// running waits until something in the container has a command line with text in it.
func running(t *testing.T, c *containerbox.Container, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		pids, err := inside.Processes(c.Cgroup())
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), text) {
				return
			}
		}
	}
	t.Fatalf("nothing runs that has %q in its command line", text)
}

// TestNothingLeaks: many commands, some at once, leave no FIFO and no exec in containerd.
func TestNothingLeaks(t *testing.T) {
	b, r := newBox(t)
	c := b.Run("agent", containerbox.ContainerOptions{})
	for range 5 {
		var wait sync.WaitGroup
		for i := range 4 {
			wait.Go(func() {
				got, err := r.Exec(t.Context(), "agent", command("sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)))
				if err != nil || got.ExitCode != i || string(got.Output) != fmt.Sprintln(i) {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		wait.Wait()
	}
	if _, err := r.Exec(t.Context(), "agent", command("no-such-command")); err == nil {
		t.Error("ran what is not there")
	}
	left, err := os.ReadDir(r.opts.FIFODir)
	if err != nil || len(left) > 0 {
		t.Errorf("FIFOs left: %v, %v", left, err)
	}
	alone(t, c)
}
