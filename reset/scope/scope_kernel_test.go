package scope

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/reset/inside"
)

// agent starts something that lives in a cgroup for the time of the test, with a mount
// namespace of its own in which /mnt/agent is there, and a network namespace.
func agent(t *testing.T, uid uint32) (cgroup, netns string, process *exec.Cmd) {
	t.Helper()
	kerneltest.Require(t)
	cgroup, netns = kerneltest.Cgroup(t), kerneltest.NetNS(t)
	script := fmt.Sprintf(`mount -t tmpfs tmpfs /mnt && echo yes >/mnt/agent && echo ready && exec setpriv --reuid=%d --regid=%d --clear-groups sleep 1000`, uid, uid)
	process = kerneltest.Command(t, cgroup, []string{"WHOSE=the agent's"}, "unshare", "--mount", "sh", "-c", script)
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	process.SysProcAttr.Setsid = true
	if err := kerneltest.Start(process, netns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if owner, err := inside.Owner(process.Process.Pid); err == nil && owner == uid {
			return cgroup, netns, process
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent does not become its user")
		}
	}
}

func command(argv ...string) reset.Command {
	return reset.Command{
		Argv: argv, UID: 10000, GID: 10000, Timeout: 10 * time.Second,
		Environment: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "USER=x"},
	}
}

func run(t *testing.T, cgroup string, c reset.Command) reset.Result {
	t.Helper()
	r, err := Runtime{}.Exec(t.Context(), cgroup, c)
	if err != nil {
		t.Fatal(err)
	}
	noChildren(t, cgroup)
	return r
}

func noChildren(t *testing.T, cgroup string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(cgroup, childPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestCommandIsBesideTheAgent(t *testing.T) {
	cgroup, netns, _ := agent(t, 10000)
	r := run(t, cgroup, command("sh", "-c", `id -u; id -g; id -G; cat /mnt/agent; echo $HOME $USER ${WHOSE:-}; readlink /proc/self/ns/net
		grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):' /proc/self/status; cat /proc/self/cgroup; pwd`))
	var st syscall.Stat_t
	if err := syscall.Stat(netns, &st); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(r.Output), "\t", " ")
	for _, want := range []string{
		"10000\n10000\n10000\nyes\n/tmp x\n", fmt.Sprintf("net:[%d]\n", st.Ino),
		"CapPrm: 0000000000000000\n", "CapEff: 0000000000000000\n", "CapBnd: 0000000000000000\n", "NoNewPrivs: 1\n",
		"/" + filepath.Base(cgroup) + "/" + childPrefix,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
	if r.ExitCode != 0 || r.TimedOut || !strings.HasSuffix(text, "\n/\n") {
		t.Errorf("%+v", r)
	}
	if text, err := (Runtime{}).ReadFile(t.Context(), cgroup, "/mnt/agent", 10); err != nil || string(text) != "yes\n" {
		t.Errorf("%q, %v", text, err)
	}
	if env, err := (Runtime{}).Environment(t.Context(), cgroup, 10000); err != nil || !bytes.Contains([]byte(strings.Join(env, "\n")), []byte("WHOSE=the agent's")) {
		t.Errorf("%q, %v", env, err)
	}
	if env, err := (Runtime{}).Environment(t.Context(), cgroup, 10001); err != nil || len(env) != 0 {
		t.Errorf("another user is shown %q, %v", env, err)
	}
}

func TestRootHasNoCapabilities(t *testing.T) {
	cgroup, _, _ := agent(t, 0)
	c := command("sh", "-c", "id -u; grep -E '^Cap(Eff|Bnd)' /proc/self/status; chown 1:1 /mnt/agent || echo refused")
	c.UID, c.GID = 0, 0
	if text := string(run(t, cgroup, c).Output); !strings.HasPrefix(text, "0\n") || strings.Count(text, "0000000000000000") != 2 || !strings.Contains(text, "refused") {
		t.Errorf("%q", text)
	}
}

func TestArgumentsStayArguments(t *testing.T) {
	cgroup, _, _ := agent(t, 10000)
	hostile := "a b; touch /tmp/x $(id) `id` \"' \\ *\n>&2"
	if r := run(t, cgroup, command("printf", "%s|", hostile, "-n", "")); string(r.Output) != hostile+"|-n||" {
		t.Errorf("%q", r.Output)
	}
}

// TestTimeoutKillsEverything of the command, and nothing else.
func TestTimeoutKillsEverything(t *testing.T) {
	for name, script := range map[string]string{
		"ignores SIGTERM":   "trap '' TERM INT HUP; while :; do sleep 1; done",
		"children":          "sleep 999 & sleep 998 & wait",
		"left its session":  "setsid -f sleep 999; sleep 998",
		"cleared its names": "setsid -f env -i sleep 999; sleep 998",
	} {
		t.Run(name, func(t *testing.T) {
			cgroup, _, process := agent(t, 10000)
			c := command("sh", "-c", "echo begun; "+script)
			c.Timeout = 500 * time.Millisecond
			r := run(t, cgroup, c)
			if !r.TimedOut || r.Took > 5*time.Second || string(r.Output) != "begun\n" {
				t.Errorf("%+v", r)
			}
			pids, err := inside.Processes(cgroup)
			if err != nil || len(pids) != 1 || pids[0] != process.Process.Pid {
				t.Errorf("%v are in the cgroup, want the agent %d alone, %v", pids, process.Process.Pid, err)
			}
		})
	}
}

func TestEndOfContextKills(t *testing.T) {
	cgroup, _, _ := agent(t, 10000)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := Runtime{}.Exec(ctx, cgroup, command("sleep", "999"))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	noChildren(t, cgroup)
}

// TestChildInTheBackgroundIsWaitedForByNobody: it holds the output, and is killed.
func TestChildInTheBackgroundIsWaitedForByNobody(t *testing.T) {
	cgroup, _, _ := agent(t, 10000)
	if r := run(t, cgroup, command("sh", "-c", "sleep 999 & echo done; exit 7")); r.ExitCode != 7 || string(r.Output) != "done\n" || r.Took > 5*time.Second {
		t.Errorf("%+v", r)
	}
}

func TestOutputIsBounded(t *testing.T) {
	cgroup, _, _ := agent(t, 10000)
	r := run(t, cgroup, command("sh", "-c", "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 3"))
	if len(r.Output) != reset.MaxOutput || r.ExitCode != 3 {
		t.Errorf("%d bytes, status %d", len(r.Output), r.ExitCode)
	}
}

func TestWhatCannotBeRun(t *testing.T) {
	cgroup, _, process := agent(t, 10000)
	for want, argv := range map[string][]string{"no-such-agent": {"no-such-agent"}, "/etc/passwd": {"/etc/passwd"}, "/nowhere/x": {"/nowhere/x"}} {
		if _, err := (Runtime{}).Exec(t.Context(), cgroup, command(argv...)); !errors.Is(err, reset.ErrNoCommand) {
			t.Errorf("%s: %v", want, err)
		}
		noChildren(t, cgroup)
	}
	if _, err := (Runtime{}).Exec(t.Context(), cgroup+"-gone", command("true")); !errors.Is(err, reset.ErrNotFound) {
		t.Error(err)
	}
	if _, err := (Runtime{}).ReadFile(t.Context(), cgroup, "/nowhere", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = process.Wait()
	if _, err := (Runtime{}).Exec(t.Context(), cgroup, command("true")); !errors.Is(err, reset.ErrNotRunning) {
		t.Error(err)
	}
}

func TestLeftoversOfADeadDaemonAreRemoved(t *testing.T) {
	cgroup, _, _ := agent(t, 10000)
	left := filepath.Join(cgroup, childPrefix+"1-XXXXXXXX")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	sleeper := kerneltest.Command(t, left, nil, "sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	run(t, cgroup, command("true"))
	if err := sleeper.Wait(); err == nil {
		t.Error("the left command was not killed")
	}
}

// TestOutputPipeThatAnOutsiderHolds: a process of the same user may have opened the command's standard output by /proc,
// and is none that is killed with it.
func TestOutputPipeThatAnOutsiderHolds(t *testing.T) {
	cgroup, _, _ := agent(t, 10000)
	type ran struct {
		reset.Result
		err error
	}
	ended := make(chan ran, 1)
	go func() {
		r, err := Runtime{}.Exec(t.Context(), cgroup, command("sh", "-c", "echo said; sleep 1; echo more"))
		ended <- ran{r, err}
	}()
	var pipe *os.File
	for deadline := time.Now().Add(10 * time.Second); pipe == nil; time.Sleep(time.Millisecond) {
		found, _ := filepath.Glob(filepath.Join(cgroup, childPrefix+"*"))
		for _, dir := range found {
			pids, _ := inside.Processes(dir)
			for _, pid := range pids {
				if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) == "sleep\n" {
					pipe, _ = os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY, 0)
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the command does not sleep")
		}
	}
	defer pipe.Close()
	select {
	case r := <-ended:
		if r.err != nil || string(r.Output) != "said\nmore\n" || r.ExitCode != 0 || r.TimedOut {
			t.Errorf("%+v, %v", r.Result, r.err)
		}
	case <-time.After(8 * time.Second):
		t.Error("it is waited for whoever holds the pipe")
		pipe.Close()
		<-ended
	}
	noChildren(t, cgroup)
}
