package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/netns"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// The secrets that the upstream knows, and what no client may ever hold.
const (
	openaiFirst, openaiSecond       = "sk-first-31415926", "sk-second-27182818"
	anthropicFirst, anthropicSecond = "sk-ant-first-14142135", "sk-ant-second-17320508"
)

// commandLimit is how long a client may take, where other tests run beside it.
const commandLimit = 2 * time.Minute

// house is a whole installation: a daemon, an upstream in a network namespace, and
// a namespace with no way out but to that, in which agents run.
type house struct {
	t      *testing.T
	dir    string
	pair   kerneltest.Pair
	sim    *simulator.Simulator
	daemon process
	path   string // of the sluice command
	socket string
	tokens string // URL of the upstream's token endpoint, where the daemon reaches it
}

// certificate replaces what the upstream shows, by server name; nil keeps it.
type certificate func(a *simulator.Authority, name string) (*tls.Certificate, error)

// newHouse starts a daemon with the pools "openai" and "claude", of two members each.
// What config holds is added to its configuration.
func newHouse(t *testing.T, change certificate, config ...string) *house {
	t.Helper()
	h := newEmptyHouse(t, change, []simulator.Credential{
		{Name: "first", Secret: openaiFirst},
		{Name: "second", Secret: openaiSecond},
		{Name: "ant-first", Secret: anthropicFirst},
		{Name: "ant-second", Secret: anthropicSecond},
	}, config...)
	for name, secret := range map[string]string{"a1": openaiFirst, "a2": openaiSecond, "c1": anthropicFirst, "c2": anthropicSecond} {
		h.sluice(secret, "cred", "add", name)
	}
	h.sluice("", "pool", "create", "openai", "--members", "a1,a2", "--provider", "openai")
	h.sluice("", "pool", "create", "claude", "--members", "c1,c2", "--provider", "anthropic")
	return h
}

// newEmptyHouse starts a daemon without a pool, and an upstream that knows credentials.
func newEmptyHouse(t *testing.T, change certificate, known []simulator.Credential, config ...string) *house {
	t.Helper()
	kerneltest.Require(t)
	h := &house{t: t, dir: t.TempDir(), pair: kerneltest.NewPair(t)}
	h.socket = filepath.Join(h.dir, "s.sock")
	h.startUpstream(change, known)
	hosts := "127.0.0.1 localhost\n" + h.pair.ServerIP4 + " unbound.example wrong.example"
	for _, p := range pool.Providers() {
		hosts += " " + strings.Join(p.Hosts, " ")
	}
	h.write("hosts", hosts+"\n")
	h.write("upstream.pem", string(h.sim.CA()))
	pins := filepath.Join(kerneltest.BPFFS(t), "sluice")
	h.write("config.toml", fmt.Sprintf("pin_dir = %q\nupstream_roots = %q\ndrain_time = \"1s\"\n", pins, filepath.Join(h.dir, "upstream.pem"))+strings.Join(config, "\n"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.path = filepath.Join(h.dir, "sluice")
	if err := os.Symlink(self, h.path); err != nil {
		t.Fatal(err)
	}
	h.start()
	t.Cleanup(func() {
		h.daemon.kill()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", h.daemon.log)
		}
	})
	return h
}

func (h *house) startUpstream(change certificate, known []simulator.Credential) {
	h.t.Helper()
	ns, err := netns.Open(h.pair.Server)
	if err != nil {
		h.t.Fatal(err)
	}
	defer ns.Close()
	listener, err := ns.Listen(h.t.Context(), "tcp4", h.pair.ServerIP4+":443")
	if err != nil {
		h.t.Fatal(err)
	}
	listener6, err := ns.Listen(h.t.Context(), "tcp6", "["+h.pair.ServerIP6+"]:443")
	if err != nil {
		h.t.Fatal(err)
	}
	// The daemon refreshes accounts from the host's own namespace.
	local, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	h.tokens = fmt.Sprintf("https://localhost:%d/oauth/token", local.Addr().(*net.TCPAddr).Port)
	authority, err := simulator.NewAuthority()
	if err != nil {
		h.t.Fatal(err)
	}
	options := simulator.Options{
		Listeners: []net.Listener{listener, listener6, local}, Authority: authority,
		Credentials: known,
	}
	if change != nil {
		options.Certificate = func(name string) (*tls.Certificate, error) { return change(authority, name) }
	}
	if h.sim, err = simulator.New(options); err != nil {
		h.t.Fatal(err)
	}
	if err := h.sim.Start(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = h.sim.Close() })
}

// start starts the daemon, again after a kill. A command that executes another one may be
// put before it.
func (h *house) start(through ...string) {
	h.t.Helper()
	if err := h.daemon.launch(h.dir, filepath.Join(h.dir, "config.toml"), filepath.Join(h.dir, "state"), h.socket, through...); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// sluice runs a command of the operator's and returns what it prints.
func (h *house) sluice(stdin string, args ...string) string {
	h.t.Helper()
	var out bytes.Buffer
	if status := h.operate(&out, &out, stdin, args...); status != exitDone {
		h.t.Fatalf("sluice %s: status %d: %s", strings.Join(args, " "), status, out.String())
	}
	return out.String()
}

// operate runs a command line of the operator's in this process: to start one that was built with -race takes longer than most commands.
func (h *house) operate(stdout, stderr io.Writer, stdin string, args ...string) (status int) {
	e := defaultEnv()
	e.stdin, e.stdout, e.stderr = strings.NewReader(stdin), stdout, stderr
	e.getenv = func(name string) string { return map[string]string{"SLUICE_SOCKET": h.socket}[name] }
	return sluice(e, args)
}

// agent prepares a command in the agents' namespace, with the house's hosts file and
// an empty environment but for env.
func (h *house) agent(env []string, argv ...string) *exec.Cmd {
	h.t.Helper()
	return h.agentFor(commandLimit, env, argv...)
}

// agentFor is agent for a command that may take longer.
func (h *house) agentFor(limit time.Duration, env []string, argv ...string) *exec.Cmd {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	h.t.Cleanup(cancel)
	script := `mount --bind "$0" /etc/hosts && exec env -i "$@"`
	base := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "SLUICE_SOCKET=" + h.socket, quickExit}
	args := append([]string{"--net=" + h.pair.Agent, "unshare", "--mount", "sh", "-c", script, filepath.Join(h.dir, "hosts")}, base...)
	cmd := exec.CommandContext(ctx, "nsenter", append(append(args, env...), argv...)...)
	cmd.Dir = h.dir
	cmd.WaitDelay = time.Second
	return cmd
}

// output runs an agent's command under `sluice run` and returns its standard output.
// It fails the test if the command fails, or if a secret is in what it prints.
func (h *house) output(argv ...string) string {
	h.t.Helper()
	cmd := h.agent(nil, append([]string{h.path, "run", "--user", "root", "--"}, argv...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out, stderr.String())
	}
	h.noSecret(string(out) + stderr.String())
	return string(out)
}

func (h *house) noSecret(text string) {
	h.t.Helper()
	for _, secret := range []string{openaiFirst, openaiSecond, anthropicFirst, anthropicSecond} {
		if strings.Contains(text, secret) {
			h.t.Errorf("a secret reached the agent: %s", text)
		}
	}
}

// seen waits for the entries after seq to be answered and returns them. Each has to
// carry a credential that the upstream knows, and none that it does not.
func (h *house) seen(seq uint64, n int) []simulator.Entry {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 5*time.Second)
	defer cancel()
	entries, err := h.sim.Journal().Wait(ctx, seq, func(all []simulator.Entry) bool {
		for _, e := range all {
			if e.Status == 0 {
				return false
			}
		}
		return len(all) >= n
	})
	if err != nil || len(entries) != n {
		h.t.Fatalf("the upstream saw %d requests, want %d: %v: %+v", len(entries), n, err, entries)
	}
	for _, e := range entries {
		if e.Credential == "" || len(e.Presented) != 1 {
			h.t.Errorf("%s %s%s was sent with %+v, want one known credential", e.Method, e.Host, e.Path, e.Presented)
		}
	}
	return entries
}

// needs skips a test for which a command is missing; where kernel tests are required
// that is a failure.
func needs(t *testing.T, commands ...string) {
	t.Helper()
	for _, name := range commands {
		if _, err := exec.LookPath(name); err != nil {
			lacking(t, "%s is not installed, scripts/deps.sh does it", name)
		}
	}
}

// lacking ends a test that something is missing for.
func lacking(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
