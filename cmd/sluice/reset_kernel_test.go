package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// hermesFile is what the stand-in agent remembers.
const hermesFile = "/home/agent/.hermes/auth.json"

// exitLatched is what it ends with when it does not even ask.
const exitLatched = 75

// ward is a house whose agents are in containers.
type ward struct {
	*house
	box *containerbox.Box
}

func newWard(t *testing.T, known []simulator.Credential, config ...string) *ward {
	t.Helper()
	return newWardOf(t, nil, known, config...)
}

// newWardOf is newWard with files in the containers' image.
func newWardOf(t *testing.T, files map[string]containerbox.File, known []simulator.Credential, config ...string) *ward {
	t.Helper()
	box := containerbox.New(t, containerbox.Options{
		Programs: map[string]string{"/usr/bin/hermes": "github.com/sluice-proxy/sluice/scripts/containerbox/hermes"}, Files: files,
	})
	sockets := fmt.Sprintf("[containers]\ncontainerd = %q\ndocker = %q\n", box.Socket, filepath.Join(t.TempDir(), "no-docker"))
	return &ward{house: newEmptyHouse(t, nil, known, append(config, sockets)...), box: box}
}

// agentIn starts a container with the stand-in agent in the agents' network, and attaches it.
func (w *ward) agentIn(name string, o containerbox.ContainerOptions) *containerbox.Container {
	w.t.Helper()
	hosts, err := os.ReadFile(filepath.Join(w.dir, "hosts"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("ca.pem", w.sluice("", "ca", "show"))
	o.NetNS, o.Hosts = w.pair.Agent, string(hosts)
	o.Mounts = map[string]string{"/etc/ssl/ca.pem": filepath.Join(w.dir, "ca.pem")}
	o.Env = append(o.Env, "SSL_CERT_FILE=/etc/ssl/ca.pem", "OPENAI_API_KEY=placeholder")
	c := w.box.Run(name, o)
	w.sluice("", "attach", "--container", name, "--namespace", w.box.Namespace)
	return c
}

// ask has the agent ask once, as its user: what it printed, and its exit status.
func ask(c *containerbox.Container, url string) (string, int) {
	return c.Exec(containerbox.Agent, "env", "HOME=/home/agent", "hermes", "ask", url)
}

// resetEvents waits until n resets of a pool have ended and returns the kinds of all its
// events, and the last one.
func (w *ward) resetEvents(name string, n int) ([]string, map[string]any) {
	w.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var events []map[string]any
		if err := json.Unmarshal([]byte(w.sluice("", "events", "-n", "100", "-o", "json")), &events); err != nil {
			w.t.Fatal(err)
		}
		var kinds []string
		var last map[string]any
		ended := 0
		for _, e := range events {
			kind, _ := e["kind"].(string)
			if e["pool"] != name || !slices.Contains([]string{"pool_exhausted", "pool_recovered", "auth_reset", "auth_reset_failed"}, kind) {
				continue
			}
			kinds, last = append(kinds, kind), e
			if strings.HasPrefix(kind, "auth_reset") {
				ended++
			}
		}
		if ended >= n {
			return kinds, last
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("pool %s: %q, want %d resets", name, kinds, n)
		}
	}
}

// TestLatchedAgentWorksAgain: latched, exhausted, recovered, reset, working; and beside it
// agents that cannot be reset, for different reasons, each of which is said.
func TestLatchedAgentWorksAgain(t *testing.T) {
	t.Parallel()
	const url = "https://api.openai.com/v1/chat/completions"
	w := newWard(t, []simulator.Credential{
		{Name: "good", Secret: openaiFirst},
		{Name: "old", Secret: "sk-or-v1-old"},
		{Name: "sealed", Secret: "ghp_sealed"},
		{Name: "missing", Secret: "AIzaMissing"},
	}, "[profile.other]\nargv = [\"no-such-agent\", \"{target}\"]\nuser = \"10000:10000\"\n")
	pool := func(name, secret, provider string, flags ...string) {
		w.sluice(secret, "cred", "add", "of-"+name)
		w.sluice("", append([]string{
			"pool", "create", name, "--members", "of-" + name, "--provider", provider, "--auth-reset-target", "openai-codex",
		}, flags...)...)
	}
	pool("good", openaiFirst, "openai", "--container", "good")
	pool("old", "sk-or-v1-old", "openrouter", "--container", "old")
	pool("sealed", "ghp_sealed", "github", "--container", "sealed")
	pool("missing", "AIzaMissing", "gemini", "--container", "good", "--agent-profile", "other")
	good := w.agentIn("good", containerbox.ContainerOptions{})
	old := w.agentIn("old", containerbox.ContainerOptions{Env: []string{"HERMES_RELEASE=2026-08"}})
	sealed := w.agentIn("sealed", containerbox.ContainerOptions{ReadOnly: true})
	plan := w.sluice("", "pool", "reset-agent", "good", "--dry-run")
	for _, want := range []string{"container good", "hermes auth reset openai-codex", "10000:10000", "HOME", "OPENAI_API_KEY", "30s"} {
		if !strings.Contains(plan, want) || strings.Contains(plan, "placeholder") {
			t.Errorf("the plan has no %q, or a value:\n%s", want, plan)
		}
	}
	if said, status := ask(good, url); status != 0 || said != "200\n" {
		t.Fatalf("%d %s", status, said)
	}
	for _, name := range []string{"good", "old", "sealed", "missing"} {
		if err := w.sim.Spend(name, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if said, status := ask(good, url); status != 0 || said != "429\n" {
		t.Fatalf("%d %s", status, said)
	}
	if said, status := ask(good, url); status != exitLatched {
		t.Fatalf("not latched: %d %s", status, said)
	}
	ask(old, "https://openrouter.ai/api/v1/chat/completions")
	ask(sealed, "https://api.github.com/user")
	good.Exec(containerbox.Agent, "env", "HOME=/tmp", "hermes", "ask", "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent")

	want := []string{"pool_exhausted", "pool_recovered", "auth_reset"}
	if kinds, _ := w.resetEvents("good", 1); !slices.Equal(kinds, want) {
		t.Errorf("%q, want %q", kinds, want)
	}
	if said, status := ask(good, url); status != 0 || said != "200\n" {
		t.Errorf("the agent does not work again: %d %s", status, said)
	}
	if said, _ := good.Exec(0, "stat", "-c", "%u:%g", hermesFile); said != "10000:10000\n" {
		t.Errorf("its file belongs to %s", said)
	}
	for name, why := range map[string]string{
		"old": "changed nothing", "sealed": "read-only file system", "missing": "there is no no-such-agent to run in container good",
	} {
		kinds, last := w.resetEvents(name, 1)
		if reason, _ := last["reason"].(string); kinds[len(kinds)-1] != "auth_reset_failed" || !strings.Contains(reason, why) {
			t.Errorf("%s: %q, %v, want %q", name, kinds, last, why)
		}
	}
	if said, status := ask(old, "https://openrouter.ai/api/v1/chat/completions"); status != exitLatched {
		t.Errorf("the old release was reset after all: %d %s", status, said)
	}
	log := w.daemon.log.String()
	if told, done := strings.Index(log, `"good\" recovered:`), strings.Index(log, `msg="auth reset" pool=good`); told < 0 || told > done {
		t.Error("the reset was done before the recovery was noticed")
	}
	for _, notice := range []string{`agent auth reset in good succeeded.`, `agent auth reset in old failed: `} {
		if strings.Count(log, notice) != 1 {
			t.Errorf("noticed %d times: %s", strings.Count(log, notice), notice)
		}
	}
	w.sluice("", "audit", "verify", "--state-dir", filepath.Join(w.dir, "state"))
}

// TestResetOutlivesTheDaemons: containerd is killed before the pool recovers and sluice
// while it waits for containerd; the agent is reset all the same, once.
func TestResetOutlivesTheDaemons(t *testing.T) {
	t.Parallel()
	const url = "https://api.openai.com/v1/chat/completions"
	w := newWard(t, []simulator.Credential{{Name: "only", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	w.sluice("", "pool", "set-auth-reset", "openai", "openai-codex")
	agent := w.agentIn("agent", containerbox.ContainerOptions{})
	if err := w.sim.Spend("only", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if said, _ := ask(agent, url); said != "429\n" {
		t.Fatal(said)
	}
	w.box.KillDaemon()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(w.daemon.log.String(), "the runtime is away"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the reset does not wait for containerd")
		}
	}
	w.daemon.kill()
	w.start()
	w.box.StartDaemon()
	kinds, last := w.resetEvents("openai", 1)
	if want := []string{"pool_exhausted", "pool_recovered", "auth_reset"}; !slices.Equal(kinds, want) {
		t.Errorf("%q, %v; want %q", kinds, last, want)
	}
	if said, status := ask(agent, url); status != 0 || said != "200\n" {
		t.Errorf("the agent does not work again: %d %s", status, said)
	}
}

// TestAgentOnTheHostIsReset: an agent that is in no container, attached by its cgroup, its unit or its process, is reset in
// its cgroup as its user, and works again.
func TestAgentOnTheHostIsReset(t *testing.T) {
	t.Parallel()
	needs(t, "setpriv", "nsenter", "unshare")
	const url = "https://api.openai.com/v1/chat/completions"
	h := newEmptyHouse(t, nil, []simulator.Credential{{Name: "good", Secret: openaiFirst}})
	h.sluice(openaiFirst, "cred", "add", "a1")
	h.sluice("", "pool", "create", "main", "--members", "a1", "--provider", "openai", "--auth-reset-target", "openai-codex")

	dir, err := os.MkdirTemp("", "agent") // where another user may go, unlike a test's own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "hermes"), "../../scripts/containerbox/hermes").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o755), os.Chown(home, containerbox.Agent, containerbox.Agent),
		os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(h.sluice("", "ca", "show")), 0o644)); err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(kerneltest.Cgroup(t), fmt.Sprintf("reset-agent-%d.service", os.Getpid()))
	if err := os.Mkdir(unit, 0o755); err != nil {
		t.Fatal(err)
	}
	agent := kerneltest.Command(t, unit, nil, "nsenter", "--net="+h.pair.Agent, "unshare", "--mount", "sh", "-c",
		`mount --bind "$0" /etc/hosts && exec env -i "$@"`, filepath.Join(h.dir, "hosts"),
		"PATH="+dir+":/usr/bin:/bin", "HOME="+home, "SSL_CERT_FILE="+filepath.Join(dir, "ca.pem"), "OPENAI_API_KEY=placeholder",
		"setpriv", fmt.Sprintf("--reuid=%d", containerbox.Agent), fmt.Sprintf("--regid=%d", containerbox.Agent), "--clear-groups",
		"sh", "-c", `echo ready; while read url; do said=$(hermes ask "$url" 2>&1); echo "$? $said"; done`)
	stdin, err := agent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = agent.Wait()
	})
	said := bufio.NewScanner(stdout)
	asks := func(want string) {
		t.Helper()
		if _, err := fmt.Fprintln(stdin, url); err != nil {
			t.Fatal(err)
		}
		if !said.Scan() || !strings.HasPrefix(said.Text(), want) {
			t.Errorf("the agent said %q, want %q", said.Text(), want)
		}
	}
	if !said.Scan() {
		t.Fatal("the agent does not start")
	}
	for _, by := range [][]string{{"--cgroup", unit}, {"--unit", filepath.Base(unit)}, {"--pid", strconv.Itoa(agent.Process.Pid)}} {
		h.sluice("", "detach", "--all")
		h.sluice("", append([]string{"attach"}, by...)...)
		plan := h.sluice("", "pool", "reset-agent", "main", "--dry-run")
		for _, want := range []string{"cgroup " + unit, "hermes auth reset openai-codex", "10000:10000"} {
			if !strings.Contains(plan, want) {
				t.Errorf("attached by %s, the plan has no %q:\n%s", by[0], want, plan)
			}
		}
	}
	asks("0 200")
	if err := h.sim.Spend("good", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	asks("0 429")
	asks(fmt.Sprint(exitLatched))
	w := ward{house: h}
	want := []string{"pool_exhausted", "pool_recovered", "auth_reset"}
	kinds, last := w.resetEvents("main", 1)
	if detail, _ := last["detail"].(string); !slices.Equal(kinds, want) || !strings.Contains(detail, "as 10000:10000 in cgroup ") {
		t.Errorf("%q, %v", kinds, last)
	}
	asks("0 200")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(home, ".hermes", "auth.json"), &st); err != nil || st.Uid != containerbox.Agent || st.Gid != containerbox.Agent {
		t.Errorf("its file belongs to %d:%d: %v", st.Uid, st.Gid, err)
	}
	h.sluice("", "detach", "--all")
}
