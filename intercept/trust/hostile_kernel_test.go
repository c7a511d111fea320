package trust

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// soon is how long the look at what an agent has made may take, on a busy machine.
const soon = time.Minute

// inTime calls f, which an agent would have take for ever.
func inTime(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatalf("%s has taken %v", what, soon)
	}
}

// agents is a directory that an agent without privilege owns.
func agents(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // what t.TempDir makes is in a directory that is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, agentUser, agentUser)); err != nil {
		t.Fatal(err)
	}
	return dir
}

const agentUser = 23456

// asAgent runs a program as a user other than root, without capabilities, in a mount namespace.
func asAgent(t *testing.T, env []string, argv ...string) int {
	t.Helper()
	user := strconv.Itoa(agentUser)
	return running(t, 0, env, append([]string{"setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"}, argv...)...)
}

// leaseholder takes a lease on each file that it is given: who opens one waits for 45 s, by default.
const leaseholder = `
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
for name in sys.argv[1:]:
    fcntl.fcntl(os.open(name, os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print(1, flush=True)
sys.stdin.read()`

// mapper maps the file that it is given.
const mapper = `
import mmap, os, sys
m = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)
print(1, flush=True)
sys.stdin.read()`

// TestAnAgentEndsNothing by what it has mapped: who looks at it is the daemon of all.
func TestAnAgentEndsNothing(t *testing.T) {
	kerneltest.Require(t)
	ca, dir := newSite(t, "one.example").pem, agents(t)
	machine := filepath.Join(dir, "libjvm.so") // in no directory of a release of Java's
	if err := os.WriteFile(machine, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	pid := asAgent(t, nil, "/usr/bin/python3", "-c", mapper, machine)
	if _, err := Cover(pid, nil, nil, ca); err != nil {
		t.Error(err)
	}
	if found := FindUntrusting([]int{pid}, ca); len(found) != 0 {
		t.Errorf("%+v", found)
	}
}

// clearer writes NULs over its environment, so that it has a million variables without a name, and has as many children as it is told.
const clearer = `
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
fields = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
begin, end = int(fields[47]), int(fields[48]) # env_start, env_end
ctypes.memset(begin, 0, end - begin)
for i in range(int(sys.argv[1])):
    if os.fork() == 0:
        libc.prctl(1, signal.SIGKILL) # PR_SET_PDEATHSIG
        signal.pause()
print(1, flush=True)
sys.stdin.read()`

// processorTime is what this process has used.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// TestAnAgentHoldsNobodyUp by what its environment names and its directories have: the others wait for the look at it to end.
func TestAnAgentHoldsNobodyUp(t *testing.T) {
	kerneltest.Require(t)
	ca, other := newSite(t, "one.example").pem, newSite(t, "other.example").pem

	t.Run("leases", func(t *testing.T) {
		dir := agents(t)
		var env, files []string
		for _, name := range []string{certFile, nodeExtra, "CURL_CA_BUNDLE", "PIP_CERT"} {
			file := filepath.Join(dir, name)
			if err := errors.Join(os.WriteFile(file, other, 0o600), os.Chown(file, agentUser, agentUser)); err != nil {
				t.Fatal(err)
			}
			env, files = append(env, name+"="+file), append(files, file)
		}
		pid := asAgent(t, env, append([]string{"/usr/bin/python3", "-c", leaseholder}, files...)...)
		inTime(t, "Cover", func() {
			bundles, err := Cover(pid, nil, nil, ca)
			if err != nil || !slices.Contains(bundles, System()) {
				t.Errorf("%q, %v", bundles, err)
			}
		})
		inTime(t, "FindUntrusting", func() { FindUntrusting([]int{pid}, ca) })
	})

	t.Run("many bundles", func(t *testing.T) {
		dir := agents(t)
		pyenv := func(i int) string {
			return filepath.Join(dir, ".pyenv/versions", strconv.Itoa(i), "lib/python3.1/site-packages/certifi/cacert.pem")
		}
		const all, size = 40, 1 << 20
		for i := range all {
			err := os.MkdirAll(filepath.Dir(pyenv(i)), 0o755)
			if i == 0 && err == nil {
				err = errors.Join(os.WriteFile(pyenv(0), other, 0o644), os.Truncate(pyenv(0), size))
			} else if err == nil {
				err = os.Link(pyenv(0), pyenv(i))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		pid := asAgent(t, []string{"HOME=" + dir}, idleShell...)
		inTime(t, "Cover", func() {
			bundles, err := Cover(pid, nil, nil, ca)
			mine := 0
			for _, b := range bundles {
				if strings.HasPrefix(b, dir) {
					mine++
				}
			}
			if err == nil || !slices.Contains(bundles, System()) || mine == 0 || mine*size > maxAll {
				t.Errorf("%d bundles, %d of them its own, %v", len(bundles), mine, err)
			}
		})
	})

	t.Run("a maze", func(t *testing.T) {
		dir := agents(t)
		const each = 500
		versions, release := filepath.Join(dir, ".pyenv/versions"), filepath.Join(dir, "release")
		for _, d := range []string{versions, filepath.Join(release, "lib"), filepath.Join(dir, "python/site-packages/certifi")} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "python/site-packages/certifi/cacert.pem"), other, 0o644); err != nil {
			t.Fatal(err)
		}
		for i := range each {
			if err := errors.Join(os.Symlink(release, filepath.Join(versions, strconv.Itoa(i))),
				os.Symlink(filepath.Join(dir, "python"), filepath.Join(release, "lib/python3."+strconv.Itoa(i)))); err != nil {
				t.Fatal(err)
			}
		}
		pid := asAgent(t, []string{"HOME=" + dir}, idleShell...)
		inTime(t, "Cover", func() {
			bundles, err := Cover(pid, nil, nil, ca)
			if err == nil || !slices.Contains(bundles, System()) {
				t.Errorf("%q, %v", bundles, err)
			}
		})
	})

	t.Run("large files named by many", func(t *testing.T) {
		dir := agents(t)
		var env []string
		for i, name := range append([]string{certFile}, replaced...) {
			file := filepath.Join(dir, fmt.Sprint(i))
			if err := errors.Join(os.WriteFile(file, other, 0o644), os.Truncate(file, maxBundle)); err != nil {
				t.Fatal(err)
			}
			env = append(env, name+"="+file)
		}
		pid := asAgent(t, env, idleShell...)
		inTime(t, "FindUntrusting", func() { FindUntrusting(slices.Repeat([]int{pid}, maxLooked), ca) })
	})

	t.Run("long environments", func(t *testing.T) {
		var env []string
		for i := range 9 { // a string may have 128 KiB, execve(2)
			env = append(env, fmt.Sprintf("LONG%d=%s", i, strings.Repeat("x", 120<<10)))
		}
		first := asAgent(t, env, "/usr/bin/python3", "-c", clearer, strconv.Itoa(maxLooked))
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", first, first))
		if err != nil {
			t.Fatal(err)
		}
		pids := []int{first}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
		const bound = 10 * time.Second // it was more than a minute
		begin := processorTime(t)
		inTime(t, "Cover", func() {
			if bundles, err := Cover(first, pids, nil, ca); err != nil || !slices.Contains(bundles, System()) {
				t.Errorf("%q, %v", bundles, err)
			}
		})
		inTime(t, "FindUntrusting", func() { FindUntrusting(pids, ca) })
		if took := processorTime(t) - begin; took > bound || len(pids) < maxLooked {
			t.Errorf("%d processes: %v", len(pids), took)
		}
	})

	t.Run("many namespaces", func(t *testing.T) {
		first, pids := asAgent(t, nil, idleShell...), []int(nil)
		for range MaxApart + 2 {
			pids = append(pids, asAgent(t, nil, idleShell...))
		}
		if others := Apart(first, pids); !slices.Equal(others, pids[:MaxApart]) {
			t.Errorf("%d of %d", len(others), len(pids))
		}
	})
}
