package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/control/api"
)

// begun starts a command, and waits until it has said "started". It goes on when its standard input is closed.
func begun(t *testing.T, cmd *exec.Cmd) (stdin io.Closer) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("started\n"))); err != nil {
		t.Fatal(err)
	}
	return stdin
}

// TestRunEndsAsItsAgentWhateverTheDaemonDoes: the daemon is gone when the agent ends. The
// status is the agent's, it is said what is left, and the daemon sees to that.
func TestRunEndsAsItsAgentWhateverTheDaemonDoes(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	cmd := h.agent(nil, h.path, "run", "--user", "root", "--", "sh", "-c", "echo started; read go; exit 7")
	var said bytes.Buffer
	cmd.Stderr = &said
	stdin := begun(t, cmd)
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

// TestRunIsListenedForAheadOfItsStart: the daemon answers an attach when it listens where the command is going to be. So the
// command's first connect, however soon, is redirected instead of refused.
func TestRunIsListenedForAheadOfItsStart(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	client, err := api.Dial(h.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	asked := make(chan api.TargetSpec, 1)
	front := filepath.Join(h.dir, "front.sock")
	l, err := net.Listen("unix", front)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var spec api.TargetSpec
		if err := json.NewDecoder(r.Body).Decode(&spec); err == nil && r.Method == http.MethodPost {
			target, err := client.Attach(r.Context(), spec) // on its behalf, while it waits
			if err != nil || len(target.Namespaces) != 1 {
				t.Errorf("attached for a run: %+v, %v; want one namespace that is listened in", target, err)
			}
			asked <- spec
		}
		http.Error(w, `{"error": {"code": "unavailable", "message": "that is all"}}`, http.StatusServiceUnavailable)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	cmd := h.agent(nil, h.path, "--socket", front, "run", "--user", "root", "--", "true")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a run that was not attached: %s", out)
	}
	if spec := <-asked; spec.Pid == nil || *spec.Pid != cmd.Process.Pid {
		t.Errorf("it asked for %+v, and is process %d", spec, cmd.Process.Pid)
	}
}

// TestRunUnderNohup: what is started to outlive its terminal does.
func TestRunUnderNohup(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	cmd := h.agent(nil, "sh", "-c", `trap '' HUP; exec "$0" run --user root -- sh -c 'echo started; read go; exit 7'`, h.path)
	stdin := begun(t, cmd)
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // a command that heard it would have ended
	_ = stdin.Close()
	var status *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &status) || status.ExitCode() != 7 {
		t.Error(err)
	}
}

// TestRunStopsWithItsCommand: Claude Code suspends itself, and nobody else, at Ctrl-Z. The shell has its terminal back, and
// 'fg' goes on with it.
func TestRunStopsWithItsCommand(t *testing.T) {
	t.Parallel()
	needs(t, "bash")
	h := newHouse(t, nil)
	cmd := h.agent([]string{"PS1=ready ", "TERM=dumb", "HISTFILE="}, "bash", "--norc", "--noprofile", "-i")
	s := onScreen(t, cmd, 200)
	mark := s.until(0, "ready ")
	enter := func(line string) {
		t.Helper()
		if _, err := s.file.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	for _, by := range []string{"TSTP", "STOP"} {
		enter(h.path + ` run --user root -- sh -c 'kill -` + by + ` $$; echo went "on"'`)
		mark = s.until(mark, "Stopped")
		mark = s.until(mark, "ready ")
		enter("fg")
		mark = s.until(mark, "went on")
		mark = s.until(mark, "ready ")
	}
	enter("exit")
	if status := s.status(); status != 0 {
		t.Errorf("status %d: %s", status, s.shown())
	}
}

// TestRunTypesNothing: what a command puts into the input of its terminal would be the shell's to do, outside of the cgroup, once the
// command has ended. The rest of the terminal is its own.
func TestRunTypesNothing(t *testing.T) {
	t.Parallel()
	needs(t, "bash", "python3")
	h := newHouse(t, nil)
	cmd := h.agent([]string{"PS1=ready ", "TERM=dumb", "HISTFILE="}, "bash", "--norc", "--noprofile", "-i")
	s := onScreen(t, cmd, 200)
	mark := s.until(0, "ready ")
	for _, line := range []string{
		h.path + ` run --user root -- python3 -c 'import os, fcntl, termios; print(os.get_terminal_size().columns, "columns")
for c in "echo ty" + "ped\n": fcntl.ioctl(0, termios.TIOCSTI, c.encode())'`,
		`echo all "done"`,
	} {
		if _, err := s.file.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
		mark = s.until(mark, "ready ")
	}
	s.until(0, "all done")
	if text := s.shown(); strings.Contains(text, "typed") || !strings.Contains(text, "200 columns") || !strings.Contains(text, "Operation not permitted") {
		t.Error(text)
	}
}

// TestRunHasNoHypervisor: nor does it get a socket that no hook sees.
func TestRunHasNoHypervisor(t *testing.T) {
	t.Parallel()
	needs(t, "python3")
	h := newHouse(t, nil)
	got := h.output("python3", "-c", `import socket
for family in (socket.AF_VSOCK, socket.AF_INET):
    try: print(socket.socket(family, socket.SOCK_STREAM).family.name)
    except OSError as e: print(e.strerror)`)
	if want := "Address family not supported by protocol\nAF_INET\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// A filter of calls sees none of those that a ring has the kernel make. Without one there is nothing to be done with.
	got = h.output("python3", "-c", `import ctypes, mmap, os, socket, struct
c = ctypes.CDLL(None, use_errno=True)
p = (ctypes.c_uint32 * 30)() # struct io_uring_params
ring = c.syscall(425, 4, p)
if ring < 0:
    print(os.strerror(ctypes.get_errno()))
    raise SystemExit
sq, cq, entries = mmap.mmap(ring, p[16] + 64, offset=0), mmap.mmap(ring, p[25] + 128, offset=0x8000000), mmap.mmap(ring, 256, offset=0x10000000)
entries[:64] = struct.pack("BBHiQQI", 45, 0, 0, socket.AF_VSOCK, socket.SOCK_STREAM, 0, 0).ljust(64, b"\0") # IORING_OP_SOCKET
struct.pack_into("I", sq, p[16], 0)
struct.pack_into("I", sq, p[11], 1)
c.syscall(426, ring, 1, 1, 1, None, 0)
print("a socket:", struct.unpack_from("i", cq, p[25] + 8)[0])`)
	if want := "Function not implemented\n"; got != want {
		t.Errorf("by io_uring: %q, want %q", got, want)
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

// TestRunHidesServersFromOutside: a window of Codex's finds no server that goes around sluice, nor one of another run's.
// What a link of the user's leads to stays, if it is not the user's own.
func TestRunHidesServersFromOutside(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	const uid = 4711
	home, other, foreign := t.TempDir(), t.TempDir(), t.TempDir()
	socket, second := filepath.Join(home, ".codex/app-server-control/app-server-control.sock"), filepath.Join(other, "app-server-control/x")
	for path, owner := range map[string]int{
		socket: 0, filepath.Join(home, ".codex/app-server-daemon/daemon.pid"): 0, filepath.Join(home, "codex-daemon-0/x"): 0,
		second: uid, filepath.Join(other, "codex-daemon-4711/x"): uid, filepath.Join(foreign, "kept"): 0,
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600), os.Chown(filepath.Dir(path), owner, owner)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(foreign, filepath.Join(other, "app-server-daemon")); err != nil {
		t.Fatal(err)
	}
	for dir := other; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ variable, dir, user, want string }{
		{"HOME=" + home, filepath.Join(home, ".codex"), "0:0", "0\n700 0\nown\n"},
		{"CODEX_HOME=" + other, other, fmt.Sprintf("%d:%d", uid, uid), "kept\n0\n700 4711\nown\n"},
	} {
		argv := []string{"run", "--user", c.user, "--", "sh", "-c", `cd "$0" && ls -A app-server-control app-server-daemon/. | grep -v -e : -e '^$'
ls -A "$TMPDIR"/codex-daemon-* | wc -l; stat -c '%a %u' app-server-control && touch app-server-control/own && ls app-server-control`, c.dir}
		if c.user == "0:0" { // whoever runs sluice, and whose home is what the environment says
			argv = slices.Delete(argv, 1, 3)
		}
		if out, err := h.agent([]string{c.variable, "SUDO_UID=", "TMPDIR=" + strings.TrimPrefix(strings.TrimPrefix(c.variable, "CODEX_"), "HOME=")}, append([]string{h.path}, argv...)...).CombinedOutput(); err != nil || string(out) != c.want {
			t.Errorf("%s: %v, %q, want %q", c.variable, err, out, c.want)
		}
	}
	for _, path := range []string{socket, second} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("outside: %v", err)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), "own")); err == nil {
			t.Errorf("what the run has made is outside, too: %s", path)
		}
	}
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
