package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestRunEndsAsItsAgentWhateverTheDaemonDoes: the daemon is gone when the agent ends. The
// status is the agent's, it is said what is left, and the daemon sees to that.
func TestRunEndsAsItsAgentWhateverTheDaemonDoes(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	cmd := h.agent(nil, h.path, "run", "--user", "root", "--", "sh", "-c", "echo started; read go; exit 7")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started := make([]byte, len("started\n"))
	if _, err := stdout.Read(started); err != nil {
		t.Fatal(err)
	}
	h.daemon.kill()
	_ = stdin.Close()
	var status *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &status) || status.ExitCode() != 7 || !strings.Contains(said.String(), "once it is back") {
		t.Errorf("%v: %s", err, said.String())
	}
	h.start()
	for deadline := time.Now().Add(20 * time.Second); strings.Contains(h.sluice("", "targets", "-o", "json"), "cgroup"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the target of an agent that ended stays")
		}
	}
}

// TestRunInsideOfRun: whoever works in a shell under 'sluice run' starts the next agent from there. Its variables name
// what was made for the shell.
func TestRunInsideOfRun(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	seq := h.sim.Journal().Last()
	got := h.output(h.path, "run", "--user", "root", "--", "sh", "-c", `echo "$NODE_EXTRA_CA_CERTS" "$SSL_CERT_FILE"
grep -c BEGIN "$NODE_EXTRA_CA_CERTS"
curl -sS -o /dev/null -w '%{http_code}\n' https://api.openai.com/v1/models
curl -sS -o /dev/null -w '%{http_code}\n' --cacert /etc/ssl/certs/ca-certificates.crt https://api.anthropic.com/v1/models`)
	authorities := strings.Count(h.sluice("", "ca", "show"), "BEGIN")
	if want := fmt.Sprintf("/run/sluice-trust/node_extra_ca_certs.pem /run/sluice-trust/ssl_cert_file.pem\n%d\n200\n200\n", authorities); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	h.seen(seq, 2)
}

// TestRunWithAProxyInTheEnvironment: whoever works behind one has it in every shell. What went through it would reach
// the API with a placeholder.
func TestRunWithAProxyInTheEnvironment(t *testing.T) {
	t.Parallel()
	needs(t, "python3")
	h := newHouse(t, nil)
	seq := h.sim.Journal().Last()
	out, err := h.agent([]string{"HTTPS_PROXY=http://127.0.0.1:9", "all_proxy=http://127.0.0.1:9", "no_proxy=intranet.example"},
		h.path, "run", "--user", "root", "--pool", "openai", "--", "sh", "-c", `echo "$NO_PROXY $no_proxy"
curl -sS -o /dev/null -w '%{http_code}\n' https://api.openai.com/v1/models
python3 -c 'import urllib.request; print(urllib.request.urlopen("https://api.openai.com/v1/models").status)'
curl -sS -o /dev/null https://unbound.example/ || echo through the proxy`).CombinedOutput()
	if want := "intranet.example,api.openai.com intranet.example,api.openai.com\n200\n200\n"; err != nil ||
		!strings.HasPrefix(string(out), want) || !strings.HasSuffix(string(out), "through the proxy\n") {
		t.Errorf("%v: %s", err, out)
	}
	h.seen(seq, 2)
}

// below is everything in a directory: names, modes, times and contents.
func below(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var text []byte
		if d.Type().IsRegular() {
			text, err = os.ReadFile(path)
		}
		fmt.Fprintln(&all, path, info.Mode(), info.ModTime().UnixNano(), string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// What an agent keeps of its own is as it was, whether it is started or attached: not one
// file of its home is written, made or touched.
func TestNothingIsWrittenIntoTheAgent(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	home := t.TempDir()
	for path, text := range map[string]string{
		".codex/auth.json": `{"OPENAI_API_KEY":"sk-of-its-own"}`, ".codex/config.toml": "model = \"m\"\n", ".hermes/auth.json": `{"credential_pool":{}}`,
		".claude.json": "{}", ".bashrc": "", ".config/pip/pip.conf": "[global]\n", ".npmrc": "fund=false\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(home, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := below(t, home)
	run := h.agent([]string{"HOME=" + home}, h.path, "run", "--user", "root", "--", "sh", "-c",
		`cd && curl -sS -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' -d '`+chatBody+`' https://api.openai.com/v1/chat/completions`)
	run.Dir = home
	if out, err := run.CombinedOutput(); err != nil || string(out) != "200" {
		t.Fatalf("%v: %s", err, out)
	}
	if after := below(t, home); after != before {
		t.Errorf("run: before %s\nafter %s", before, after)
	}
	attached := h.agent([]string{"HOME=" + home}, "sleep", "60")
	attached.Dir = home
	if err := attached.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = attached.Wait() }()
	defer func() { _ = attached.Process.Kill() }()
	cgroup := kerneltest.Cgroup(t)
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(attached.Process.Pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(h.sluice("", "attach", "--cgroup", cgroup))
	h.sluice("", "detach", id)
	if after := below(t, home); after != before {
		t.Errorf("attach: before %s\nafter %s", before, after)
	}
}
