package trust

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// running starts a program that says something once it is ready, in a mount namespace of its own
// or in that of a process, and ends it with the test.
func running(t *testing.T, in int, env []string, argv ...string) int {
	t.Helper()
	enter := []string{"unshare", "--mount", "--propagation", "private"}
	if in != 0 {
		enter = []string{"nsenter", "--mount", "--target", itoa(in)}
	}
	cmd := exec.Command(enter[0], append(enter[1:], argv...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/root"}, env...)
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
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatalf("%q: %v", argv, err)
	}
	return cmd.Process.Pid
}

// what is asked of Node, of Python and of a shell: to be ready and wait.
var (
	idleNode   = []string{"node", "-e", "console.log(1); process.stdin.resume()"}
	idlePython = []string{"/usr/bin/python3", "-c", "import ssl, sys; ssl.create_default_context(); print(1, flush=True); sys.stdin.read()"}
	idleShell  = []string{"sh", "-c", "echo; read end"}
)

func TestWhoDoesNotTrust(t *testing.T) {
	kerneltest.Require(t)
	for _, name := range []string{"node", "/usr/bin/python3"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%s is not installed, scripts/deps.sh does it", name)
		}
	}
	ca := newSite(t, "one.example").pem
	dir := t.TempDir()
	own := filepath.Join(dir, "own.pem")
	if err := os.WriteFile(own, newSite(t, "other.example").pem, 0o640); err != nil {
		t.Fatal(err)
	}
	bundle := System()

	base := running(t, 0, nil, idleShell...)
	before := []int{base, running(t, base, []string{nodeExtra + "=" + bundle}, idleNode...), running(t, base, nil, idlePython...)}
	if _, err := Cover(base, before, nil, ca); err != nil {
		t.Fatal(err)
	}
	check := func(name string, pid int, says ...string) {
		t.Helper()
		found := FindUntrusting([]int{base, pid}, ca)
		if len(says) == 0 {
			if len(found) != 0 {
				t.Errorf("%s: %v", name, found)
			}
			return
		}
		if len(found) != 1 || found[0].PID != pid {
			t.Errorf("%s: %v", name, found)
			return
		}
		for _, want := range says {
			if said := fmt.Sprint(found[0]); !strings.Contains(said, want) {
				t.Errorf("%s: %q does not say %q", name, said, want)
			}
		}
	}
	check("node, before", before[1], "node", "began before", "start it again")
	check("python, before", before[2], "python3", "began before", "start it again")
	check("a shell, before", base)
	check("node", running(t, base, nil, idleNode...), "has its roots built in", "start it again with "+nodeExtra+"="+bundle)
	check("node that is told of a bundle", running(t, base, []string{nodeExtra + "=" + bundle}, idleNode...))
	check("node that reads the system's", running(t, base, []string{"NODE_OPTIONS=--use-openssl-ca"}, idleNode...))
	check("node that reads the system's by a variable", running(t, base, []string{"NODE_USE_SYSTEM_CA=1"}, idleNode...))
	check("node that does not", running(t, base, []string{"NODE_USE_SYSTEM_CA=0"}, idleNode...), "has its roots built in")
	check("node that is told of another file", running(t, base, []string{nodeExtra + "=" + own}, idleNode...), own, nodeExtra+"="+bundle)
	check("node that is told of nonsense", running(t, base, []string{nodeExtra + "=/\x1b[31m\n" + strings.Repeat("x", 1000)}, idleNode...), "names /?[31m?xxx")
	check("node that is told of no file", running(t, base, []string{nodeExtra + "=/nonexistent.pem"}, idleNode...), "/nonexistent.pem")
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	deno := append([]string{filepath.Join(dir, "deno")}, idleShell[1:]...) // is known by its name
	if err := os.WriteFile(deno[0], shell, 0o755); err != nil {
		t.Fatal(err)
	}
	check("deno", running(t, base, nil, deno...), "deno", "has its roots built in", "DENO_CERT="+bundle)
	check("deno that is told of a bundle", running(t, base, []string{"DENO_CERT=" + bundle}, deno...))
	check("deno that is told of one as Node is", running(t, base, []string{nodeExtra + "=" + bundle}, deno...))
	check("deno that is told of another file", running(t, base, []string{nodeExtra + "=" + own}, deno...), "DENO_CERT="+bundle)
	check("python", running(t, base, nil, idlePython...))
	check("python with another bundle", running(t, base, []string{certFile + "=" + own}, idlePython...), own, certFile)
	check("a shell with another bundle", running(t, base, []string{certFile + "=" + own}, idleShell...))
	if found := FindUntrusting(append(before, 1<<22), nil); found != nil {
		t.Errorf("no host is bound: %v", found)
	}
	if found := FindUntrusting([]int{1 << 22}, ca); found != nil {
		t.Errorf("nobody: %v", found)
	}

	// On the host's files nobody trusts: if nobody is known to need them, one is named for all.
	host := exec.Command("sleep", "1000")
	host.Env = []string{"A=b"}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = host.Process.Kill()
		_ = host.Wait()
	})
	check("the host's", host.Process.Pid, "sleep", "the host's own files", "sluice run")
}

// What an environment names is covered as well, whoever may read it: owner and permissions stay.
func TestCoverOfWhatAnEnvironmentNames(t *testing.T) {
	kerneltest.Require(t)
	ca, other := newSite(t, "one.example").pem, newSite(t, "other.example").pem
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 1234, 4321); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bundle, prose := file("[own]*.pem", other), file("prose", []byte("no certificate is here\n"))
	venv := filepath.Join(dir, "venv/lib/python3.99/site-packages/certifi/cacert.pem")
	if err := os.MkdirAll(filepath.Dir(venv), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(venv, other, 0o644); err != nil {
		t.Fatal(err)
	}
	entered, conda := filepath.Join(dir, "entered/lib/python3.99/site-packages/certifi/cacert.pem"), filepath.Join(dir, "entered/ssl/cacert.pem")
	for _, path := range []string{entered, conda} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, other, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	environ := []string{
		certFile + "=" + bundle, "CURL_CA_BUNDLE=" + prose, "PIP_CERT=relative.pem", "DENO_CERT=/proc/self/environ",
		"VIRTUAL_ENV=" + filepath.Join(dir, "venv"), "HOME=/*/*/*/*", "PATH=" + filepath.Join(dir, "entered/bin") + ":bin:" + os.Getenv("PATH"),
	}
	pid := running(t, 0, environ, idleShell...)
	before := count(t, pid)
	bundles, err := Cover(pid, nil, nil, ca)
	for _, want := range []string{bundle, venv, entered, conda} {
		if err != nil || !slices.Contains(bundles, want) || slices.Contains(bundles, prose) {
			t.Fatalf("%q, %v: without %s", bundles, err, want)
		}
	}
	if got := seen(t, pid, bundle); !bytes.Equal(got, Merge(other, ca)) {
		t.Errorf("%s", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join("/proc", itoa(pid), "root", bundle), &st); err != nil || st.Uid != 1234 || st.Gid != 4321 || st.Mode&0o777 != 0o640 {
		t.Errorf("owner %d:%d, mode %04o, %v", st.Uid, st.Gid, st.Mode&0o777, err)
	}
	if err := Uncover(pid); err != nil || count(t, pid) != before {
		t.Errorf("%v, %d mounts, want %d", err, count(t, pid), before)
	}

	// What is about to be executed with that environment finds the same.
	bare := running(t, 0, nil, idleShell...)
	if again, err := Cover(bare, nil, environ, ca); err != nil || !slices.Equal(again, bundles) {
		t.Errorf("%q, %v, want %q", again, err, bundles)
	}
}

// In a user namespace the files have their owner in there.
func TestCoverInAUserNamespace(t *testing.T) {
	kerneltest.Require(t)
	ca := newSite(t, "one.example").pem
	pid := running(t, 0, nil, "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "echo; read end")
	before := count(t, pid)
	bundles, err := Cover(pid, nil, nil, ca)
	if err != nil || !slices.Contains(bundles, System()) || count(t, pid) != before+len(bundles) {
		t.Fatalf("%q, %v", bundles, err)
	}
	if !holds(seen(t, pid, System()), ca) {
		t.Error("the CA is not in it")
	}
	if err := Uncover(pid); err != nil || count(t, pid) != before {
		t.Errorf("%v, %d mounts, want %d", err, count(t, pid), before)
	}
}
