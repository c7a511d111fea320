package intercept

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// newRedirect loads the real programs, pinned on a bpf file system of the test's own.
func newRedirect(t *testing.T) *bpf.Redirect {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	r, err := bpf.Load(bpf.Options{PinDir: filepath.Join(dir, "sluice")})
	must(t, err)
	t.Cleanup(func() { _ = r.Remove() })
	return r
}

// onKernel makes a bench work with the real programs.
func onKernel(t *testing.T, r *bpf.Redirect) func(*bench, *Options) {
	t.Helper()
	events, err := r.Events()
	must(t, err)
	return func(_ *bench, o *Options) {
		o.Hooks, o.Listeners, o.Flows, o.Events, o.Vigils, o.Guard = r, r, r, events, r, r
	}
}

// talker is an origin that answers each line with the address it was reached at.
func talker(t *testing.T, n *netns.NS) *net.TCPListener {
	t.Helper()
	v4, v6, err := n.Loopback(t.Context()) // brings lo up, for the way to originAddr
	must(t, err)
	v4.Close()
	v6.Close()
	l, err := n.Listen(t.Context(), "tcp4", "0.0.0.0:443")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line := make([]byte, 64)
				if n, err := c.Read(line); err == nil {
					fmt.Fprintf(c, "%s at %s\n", bytes.TrimSpace(line[:n]), c.LocalAddr())
				}
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l
}

// shell runs a bash script in a cgroup and a namespace and returns what it printed.
func shell(t *testing.T, dir string, n *netns.NS, script string) string {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), "timeout", "10", "bash", "-c", script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, n.Do(cmd.Start))
	_ = cmd.Wait()
	return out.String()
}

// ask is a script that sends a line to host:443 and prints the answer.
func ask(host string) string {
	return "exec 3<>/dev/tcp/" + host + "/443 && echo hello >&3 && cat <&3"
}

func TestRedirectedSpliceEndToEnd(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	talker(t, n)
	b := newBench(t, onKernel(t, newRedirect(t)))
	startIn(t, dir, n)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	if got := shell(t, dir, n, ask(originAddr)); got != "hello at "+originAddr+":443\n" {
		t.Errorf("redirected: %q", got)
	}
	if c := b.Counters(); c.Accepted != 1 || c.Spliced != 1 {
		t.Errorf("counters %+v", c)
	}
	if got := shell(t, dir, n, ask("127.0.0.1")); got != "hello at 127.0.0.1:443\n" {
		t.Errorf("loopback: %q", got)
	}
	if c := b.Counters(); c.Accepted != 1 {
		t.Errorf("loopback came to the listener: %+v", c)
	}
}

func TestChildOfAnAttachedCgroup(t *testing.T) {
	parent, n := newCgroup(t), newNetNS(t)
	child := filepath.Join(parent, "child")
	must(t, os.Mkdir(child, 0o755))
	talker(t, n)
	b := newBench(t, onKernel(t, newRedirect(t)))
	startIn(t, child, n)
	_, err := b.Attach(t.Context(), Request{Cgroup: parent})
	must(t, err)
	if got := shell(t, child, n, ask(originAddr)); got != "hello at "+originAddr+":443\n" {
		t.Errorf("got %q", got)
	}
	if c := b.Counters(); c.Spliced != 1 || c.Foreign != 0 {
		t.Errorf("counters %+v", c)
	}
}

// Case 20: a socket made before the attach and connected after it.
func TestSocketOlderThanTheAttach(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	talker(t, n)
	b := newBench(t, onKernel(t, newRedirect(t)))
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), "timeout", "10", "python3", "-c",
		"import socket\ns = socket.socket()\nprint('made', flush=True)\ninput()\ns.connect(('"+originAddr+"', 443))\ns.sendall(b'hello')\nprint(s.recv(99).decode(), s.getpeername()[0], flush=True)\n")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, n.Do(cmd.Start))
	_, err = io.ReadFull(out, make([]byte, len("made\n")))
	must(t, err)
	_, err = b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	_, err = io.WriteString(in, "\n")
	must(t, err)
	got, err := io.ReadAll(out)
	must(t, err)
	_ = cmd.Wait()
	if !strings.Contains(string(got), "hello at "+originAddr+":443") || b.Counters().Spliced != 1 {
		t.Errorf("said %q; counters %+v", got, b.Counters())
	}
}

// Case 24: a process that is known enters a namespace that is not; the programs tell.
func TestNewNamespaceIsAdoptedByTheKernelsWord(t *testing.T) {
	dir, first, second := newCgroup(t), newNetNS(t), newNetNS(t)
	talker(t, second)
	b := newBench(t, onKernel(t, newRedirect(t)))
	startIn(t, dir, first)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	path := filepath.Join(t.TempDir(), "ns")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, second.Do(func() error { return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "") }))
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	script := "exec nsenter --net=" + path + " bash -c 'for i in {1..500}; do if { " + ask(originAddr) + "; } 2>/dev/null; then exit; fi; read -t 0.01 <> <(:); done; echo never'"
	if got := shell(t, dir, first, script); got != "hello at "+originAddr+":443\n" {
		t.Errorf("got %q", got)
	}
	if c := b.Counters(); c.Spliced != 1 || c.Adopted != 2 {
		t.Errorf("counters %+v: nothing may pass before the listener is there", c)
	}
	cookie := second.Cookie()
	eventually(t, "given up with the last process", func() bool {
		list := b.Targets()
		return !slices.Contains(list[0].Namespaces, cookie)
	})
}

// Case 29 from outside of the cgroup, with the real programs.
func outsiderAtTheListenerIsClosed(t *testing.T) {
	dir, outside, n := newCgroup(t), newCgroup(t), newNetNS(t)
	talker(t, n)
	r := newRedirect(t)
	b := newBench(t, onKernel(t, r))
	startIn(t, dir, n)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	published, err := r.Listeners()
	must(t, err)
	port := published[n.Cookie()].Port4
	for i, from := range []string{dir, outside} {
		got := shell(t, from, n, fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d; echo hello >&3; cat <&3", port))
		if strings.Contains(got, "hello") {
			t.Errorf("answered %q", got)
		}
		eventually(t, "counted", func() bool { return b.Counters().Unsolicited == uint64(i+1) })
	}
	if c := b.Counters(); c.Spliced+c.Terminated != 0 {
		t.Errorf("dialled on: %+v", c)
	}
}

// Case 31: a daemon that is gone fails closed at once, and its successor recovers.
func TestKilledDaemonFailsClosedAndRecovers(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	talker(t, n)
	r := newRedirect(t)
	b := newBench(t, onKernel(t, r))
	startIn(t, dir, n)
	_, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	b.stop() // leaves programs and map entries, as a kill would
	begin := time.Now()
	if got := shell(t, dir, n, ask(originAddr)); !strings.Contains(got, "refused") {
		t.Errorf("without a daemon: %q", got)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("refused after %s", took)
	}
	next := newBench(t, func(x *bench, o *Options) {
		onKernel(t, r)(x, o)
		x.memory = b.memory
	})
	if got := shell(t, dir, n, ask(originAddr)); got != "hello at "+originAddr+":443\n" {
		t.Errorf("after the restart: %q", got)
	}
	must(t, next.DetachAll(t.Context()))
	left, err := r.Attachments()
	must(t, err)
	listeners, err := r.Listeners()
	must(t, err)
	if len(left)+len(listeners) != 0 {
		t.Errorf("left behind: %v, %v", left, listeners)
	}
	if got := shell(t, dir, n, ask(originAddr)); got != "hello at "+originAddr+":443\n" || next.Counters().Spliced != 1 {
		t.Errorf("detached: %q", got)
	}
}
