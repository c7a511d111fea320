package intercept

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// early is a process of a cgroup that is connected to the origin, and asks it when it is told to.
type early struct {
	pid int
	in  io.WriteCloser
	out *bufio.Reader
}

func newEarly(t *testing.T, dir string, n *netns.NS) *early {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), "python3", "-c", `
import socket, sys
s = socket.create_connection(("`+originAddr+`", 443), 5)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.connect(("`+originAddr+`", 443))
print("connected", s.getsockname()[1], flush=True)
sys.stdin.readline()
try:
    s.sendall(b"hello\n")
    print(s.recv(99).decode().strip(), flush=True)
except OSError as e:
    print(e.strerror, flush=True)
try:
    u.send(b"hello")
    print("sent", flush=True)
except OSError as e:
    print(e.strerror, flush=True)
sys.stdin.readline()
`)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, n.Do(cmd.Start))
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	return &early{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
}

func (e *early) line(t *testing.T) string {
	t.Helper()
	line, err := e.out.ReadString('\n')
	must(t, err)
	return strings.TrimSpace(line)
}

// TestOlderConnectionsAreNamed closes them, or lets exactly them be, whatever happens to the daemon meanwhile.
func TestOlderConnectionsAreNamed(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep=%t", keep), func(t *testing.T) {
			dir, n := newCgroup(t), newNetNS(t)
			talker(t, n)
			r := newRedirect(t)
			b := newBench(t, onKernel(t, r))
			e := newEarly(t, dir, n)
			port := strings.TrimPrefix(e.line(t), "connected ")
			made, err := b.Attach(t.Context(), Request{Cgroup: dir, KeepConnections: keep})
			must(t, err)
			fate, tcp, udp := FateClosed, "Software caused connection abort", "Destination address required"
			closed, kept := 2, 0
			if keep {
				fate, tcp, udp = FateKept, "hello at "+originAddr+":443", "sent"
				closed, kept = 0, 2
			}
			if made.Destroyed != closed || made.Kept != kept || len(made.Older) != 2 || made.Guard != "tcx" {
				t.Fatalf("%+v", made)
			}
			for _, o := range made.Older {
				if o.PID != e.pid || !strings.HasPrefix(o.Command, "python3") || o.Remote != originAddr+":443" || o.Fate != fate || o.State != "ESTAB" ||
					(o.Protocol == "tcp" && o.Local != originAddr+":"+port) {
					t.Errorf("%+v", o)
				}
			}
			if keep { // a restart of the daemon ends none of them
				b.stop()
				b = newBench(t, func(x *bench, o *Options) {
					onKernel(t, r)(x, o)
					x.memory = b.memory
				})
				if after := b.Targets()[0]; after.Kept != 2 || after.Destroyed != 0 {
					t.Errorf("after a restart: %+v", after)
				}
			}
			_, _ = io.WriteString(e.in, "\n")
			if got := e.line(t); got != tcp {
				t.Errorf("tcp: %q", got)
			}
			if got := e.line(t); got != udp {
				t.Errorf("udp: %q", got)
			}
			if got := shell(t, dir, n, ask(originAddr)); got != "hello at "+originAddr+":443\n" || b.Counters().Spliced != 1 {
				t.Errorf("a new connection: %q", got)
			}
			if all, err := r.Kept(); err != nil || len(all) != kept {
				t.Errorf("kept %v, %v", all, err)
			}
			e.in.Close()
			eventually(t, "what ended is forgotten", func() bool {
				must(t, b.sweepKept())
				all, err := r.Kept()
				return err == nil && len(all) == 0
			})
			must(t, b.DetachAll(t.Context()))
			if left := r.GuardedNamespaces(); len(left) != 0 {
				t.Errorf("guarded still: %v", left)
			}
		})
	}
}

// A process that shares its cgroup would have to be moved: refused, with the others' names and the way out.
func TestAttachRefusesASharedCgroup(t *testing.T) {
	dir := newCgroup(t)
	b := newBench(t, nil)
	pid, _ := startIn(t, dir, nil)
	other, stop := startIn(t, dir, nil)
	_, err := b.Attach(t.Context(), Request{Kind: KindPID, PID: pid})
	if !errors.Is(err, cgroup.ErrShared) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("%d cat", other)) || !strings.Contains(fmt.Sprint(err), "--cgroup "+dir) {
		t.Errorf("%v", err)
	}
	_, err = b.Attach(t.Context(), Request{Kind: KindPID, PID: os.Getpid()})
	if !errors.Is(err, cgroup.ErrOwn) || !strings.Contains(fmt.Sprint(err), "sluice run") {
		t.Errorf("our own cgroup: %v", err)
	}
	if len(b.Targets()) != 0 {
		t.Errorf("targets %v", b.Targets())
	}
	stop()
	if _, err := b.Attach(t.Context(), Request{Kind: KindPID, PID: pid}); err != nil {
		t.Errorf("alone: %v", err)
	}
}
