package bpf_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestWaysOut are those ways round that begin with leaving something: the cgroup, the namespace, the process. Each number is that of
// the project's list; what has none was found later.
func TestWaysOut(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	// reached asserts that a way out is one: it is documented as such, and what the page says has to be so.
	reached := func(t *testing.T, got answer) {
		t.Helper()
		if got.Said != "origin" {
			t.Errorf("documented as a way round, and it is none: %+v", got)
		}
		w.origin.tcp.Store(0)
	}
	t.Run("case_22_socket_sent_from_outside", func(t *testing.T) {
		w.agent.do(order{Do: "receive", Socket: "sent", Path: sender(t, w.Agent, false)})
		reached(t, w.agent.do(order{Do: "connect", Socket: "sent", Dst: origin4}))
		w.agent.do(order{Do: "close", Socket: "sent"})
		// The daemon's own choice of what is redirected stays: what the agent makes itself.
		w.proxied(t, order{Do: "dial", Dst: origin4})
	})
	t.Run("case_22_socket_inherited_from_outside", func(t *testing.T) {
		var fd *os.File
		must(t, kerneltest.In(w.Agent, func() error {
			n, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			fd = os.NewFile(uintptr(n), "socket")
			return err
		}))
		defer func() { _ = fd.Close() }()
		heir := newAgentWith(t, w.cgroup, w.Agent, fd) // as socket activation does
		heir.do(order{Do: "inherited", Socket: "s", N: 3})
		reached(t, heir.do(order{Do: "connect", Socket: "s", Dst: origin4}))
	})
	t.Run("case_22_listener_inherited_from_outside", func(t *testing.T) { listenerFromOutside(t, w, reached) })
	t.Run("case_22_socket_sent_to_outside", func(t *testing.T) { socketSentToOutside(t, w) })
	t.Run("socket_taken_from_a_process_outside", func(t *testing.T) {
		outside := newAgent(t, kerneltest.Cgroup(t), w.Agent)
		outside.do(order{Do: "socket", Socket: "s", Dst: origin4})
		pid := outside.cmd.Process.Pid
		got := w.agent.do(order{Do: "steal", Socket: "stolen", Data: fmt.Sprint(pid), N: socketOf(t, pid)})
		if got.Error != "" { // an agent that may not trace it, which root in a namespace of its own may not
			t.Fatalf("%+v", got)
		}
		reached(t, w.agent.do(order{Do: "connect", Socket: "stolen", Dst: origin4}))
		w.agent.do(order{Do: "close", Socket: "stolen"})
	})
	t.Run("case_25_setns_back_and_forth", func(t *testing.T) { backAndForth(t, w) })
	t.Run("case_38_child_cgroups", func(t *testing.T) { childCgroups(t, w) })
	t.Run("case_38_cgroup_left_as_root", func(t *testing.T) {
		leaver := newAgent(t, w.cgroup, w.Agent)
		if got := leaver.do(order{Do: "move", Path: filepath.Dir(w.cgroup)}); got.Error != "" {
			t.Fatalf("%+v", got)
		}
		reached(t, leaver.do(order{Do: "dial", Dst: origin4}))
		w.proxied(t, order{Do: "dial", Dst: origin4})
	})
	t.Run("namespaces_of_its_own", func(t *testing.T) {
		for _, flags := range []int{unix.CLONE_NEWCGROUP, unix.CLONE_NEWNS, unix.CLONE_NEWUTS | unix.CLONE_NEWIPC} {
			a := newAgent(t, w.cgroup, w.Agent)
			if got := a.do(order{Do: "namespaces", N: flags}); got.Error != "" {
				t.Fatalf("%x: %+v", flags, got)
			}
			if got := a.do(order{Do: "dial", Dst: origin4}); got.Said != origin4 {
				t.Errorf("%x: %+v", flags, got)
			}
		}
		userNamespace(t, w)
		w.untouched(t)
	})
	t.Run("case_41_vfork_and_clone3_into_a_cgroup", func(t *testing.T) {
		child := filepath.Join(w.cgroup, "clone3")
		must(t, os.Mkdir(child, 0o755))
		for _, path := range []string{"", child} {
			for _, dst := range []string{origin4, origin6} {
				task, err := json.Marshal(order{Do: "dial", Dst: dst})
				must(t, err)
				if got := w.agent.do(order{Do: "spawn", Path: path, Data: string(task)}); got.Said != dst || got.Peer != dst {
					t.Errorf("into %q: %+v", path, got)
				}
			}
		}
		w.untouched(t)
	})
	t.Run("case_51_sidecar", func(t *testing.T) {
		sidecar := newAgent(t, kerneltest.Cgroup(t), w.Agent)
		before := w.count(t, "redirected")
		for _, dst := range []string{origin4, origin6} {
			reached(t, sidecar.do(order{Do: "dial", Dst: dst}))
		}
		if n := w.count(t, "redirected") - before; n != 0 {
			t.Errorf("%d of another cgroup's were redirected", n)
		}
		// It may bind what the agent may not, but not what is listened on.
		if got := sidecar.do(order{Do: "bind", Dst: fmt.Sprintf("127.0.0.1:%d", w.doorman.port)}); got.Error != "EADDRINUSE" {
			t.Errorf("the listener's port: %+v", got)
		}
	})
	t.Run("program_started_by_somebody_outside", func(t *testing.T) {
		outside := newAgent(t, kerneltest.Cgroup(t), w.Agent)
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		must(t, err)
		task, err := json.Marshal(order{Do: "dial", Dst: origin4})
		must(t, err)
		done := make(chan struct{})
		go func() { // as a user's systemd does, cron, or a server of ssh
			defer close(done)
			if c, err := l.Accept(); err == nil {
				_, _ = io.WriteString(c, outside.do(order{Do: "spawn", Data: string(task)}).Said)
				_ = c.Close()
			}
		}()
		reached(t, w.agent.do(order{Do: "unix", Path: l.Addr().String()}))
		must(t, l.Close())
		<-done
	})
	t.Run("firewalls_by_cgroup", func(t *testing.T) { firewallByCgroup(t, w) })
	t.Run("forwarders_of_others", func(t *testing.T) { forwarders(t, w, reached) })
	eventually(t, "no flow is left", func() bool { return w.flows(t) == 0 })
}

// listenerFromOutside is one that was made to listen on: it, and what it accepts, can be disconnected and connected anew.
func listenerFromOutside(t *testing.T, w *world, reached func(*testing.T, answer)) {
	l, _ := listenIn(t, w.Agent, "0.0.0.0:0")
	file, err := l.File()
	must(t, err)
	defer func() { _ = file.Close() }()
	must(t, unix.SetNonblock(int(file.Fd()), false))
	heir := newAgentWith(t, w.cgroup, w.Agent, file)
	heir.do(order{Do: "inherited", Socket: "listener", N: 3})
	at := fmt.Sprintf("%s:%d", w.AgentIP4, portOf(l))
	w.agent.do(order{Do: "socket", Socket: "client", Dst: at})
	if got := w.agent.do(order{Do: "connect", Socket: "client", Dst: at, Data: "mute"}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	if got := heir.do(order{Do: "accepted", Socket: "accepted", Data: "listener"}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	for _, socket := range []string{"accepted", "listener"} {
		if got := heir.do(order{Do: "disconnect", Socket: socket}); got.Error != "" {
			t.Fatalf("%s: %+v", socket, got)
		}
		reached(t, heir.do(order{Do: "connect", Socket: socket, Dst: originMapped})) // they are of IPv6, as Go has it
	}
	w.agent.do(order{Do: "close", Socket: "client"})
}

// firewallByCgroup forbids the cgroup the origin's address, as IPAddressDeny= of a unit does: what the agent sends to the listener is let
// through by that, and the daemon's own connection, which goes on from there, is not the cgroup's.
func firewallByCgroup(t *testing.T, w *world) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "MIT",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, 16), // the destination, of IPv4
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -4),
			asm.Mov.Imm(asm.R4, 4),
			asm.FnSkbLoadBytes.Call(),
			asm.LoadMem(asm.R1, asm.RFP, -4, asm.Word),
			asm.Mov.Imm(asm.R0, 0),
			asm.JEq.Imm(asm.R1, int32(htonl(10<<24|77<<16|1)), "end"),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return().WithSymbol("end"),
		},
	})
	must(t, err)
	defer func() { _ = prog.Close() }()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: w.cgroup, Attach: ebpf.AttachCGroupInetEgress, Program: prog})
	must(t, err)
	defer func() { must(t, l.Close()) }()
	if got := w.agent.do(order{Do: "dial", Dst: "10.77.0.1:80", Wait: 100 * time.Millisecond}); got.Error == "" {
		t.Errorf("the firewall lets through: %+v", got)
	}
	w.proxied(t, order{Do: "dial", Dst: origin4})
}

// sender is a process's part of giving away a socket: the test's own is in another cgroup. An established one is connected to
// the origin already.
func sender(t *testing.T, netns string, established bool) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	var fd int
	must(t, kerneltest.In(netns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil && established {
			dst, _ := sockaddr(origin4)
			err = unix.Connect(fd, dst)
		}
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.AcceptUnix(); err == nil {
			_, _, _ = c.WriteMsgUnix([]byte{0}, unix.UnixRights(fd), nil)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		_ = unix.Close(fd)
	})
	return path
}

// socketOf is the highest descriptor of a process that is an internet socket, which is what an agent made last.
func socketOf(t *testing.T, pid int) int {
	t.Helper()
	last := -1
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	for _, e := range fds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		n := 0
		if _, scan := fmt.Sscan(e.Name(), &n); err == nil && scan == nil && strings.HasPrefix(to, "socket:") {
			last = max(last, n)
		}
	}
	if last < 0 {
		t.Fatalf("process %d has no socket", pid)
	}
	return last
}

// backAndForth: what counts is the namespace that the socket was made in, wherever its process is at connect.
func backAndForth(t *testing.T, w *world) {
	a := newAgent(t, w.cgroup, w.Agent)
	a.do(order{Do: "socket", Socket: "home", Dst: origin4})
	away := a.do(order{Do: "unshare"}).Said
	a.do(order{Do: "socket", Socket: "away", Dst: origin4})
	if got := a.do(order{Do: "connect", Socket: "home", Dst: origin4}); got.Said != origin4 || got.Peer != origin4 {
		t.Errorf("a socket of home's, from away: %+v", got)
	}
	if got := a.do(order{Do: "setns", Path: w.Agent}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	if got := a.do(order{Do: "connect", Socket: "away", Dst: origin4}); got.Error != "ECONNREFUSED" {
		t.Errorf("a socket of a namespace without listener, from home: %+v", got)
	}
	if got := a.do(order{Do: "dial", Dst: origin6}); got.Said != origin6 {
		t.Errorf("home again: %+v", got)
	}
	// Into another container's: with a listener there it is redirected to that one, which knows whose it is by the cgroup.
	other := kerneltest.NewPair(t)
	theirs := newOrigin(t, other.Server)
	if got := a.do(order{Do: "setns", Path: other.Agent}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	if got := a.do(order{Do: "dial", Dst: origin4}); got.Error != "ECONNREFUSED" {
		t.Errorf("another container's, without listener: %+v", got)
	}
	d := welcome(t, w.Redirect, other.Agent)
	if got := a.do(order{Do: "dial", Dst: origin4}); got.Said != origin4 || int(d.pid.Load()) != a.cmd.Process.Pid {
		t.Errorf("another container's: %+v of %d", got, d.pid.Load())
	}
	must(t, w.DeleteListener(d.cookie))
	if n := theirs.tcp.Load(); n != 0 {
		t.Errorf("%d reached the other origin", n)
	}
	_ = away
	w.untouched(t)
}

// childCgroups: below an attached cgroup there is no way out, not for a thread either.
func childCgroups(t *testing.T, w *world) {
	child := filepath.Join(w.cgroup, "a", "b")
	must(t, os.MkdirAll(child, 0o755))
	a := newAgent(t, w.cgroup, w.Agent)
	if got := a.do(order{Do: "move", Path: child}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	for _, dst := range []string{origin4, origin6, originMapped} {
		if got := a.do(order{Do: "dial", Dst: dst}); got.Said != plain(dst) {
			t.Errorf("in a child: %+v", got)
		}
	}
	threaded := filepath.Join(child, "threads")
	must(t, os.Mkdir(threaded, 0o755))
	must(t, os.WriteFile(filepath.Join(threaded, "cgroup.type"), []byte("threaded"), 0))
	if got := a.do(order{Do: "move thread", Path: threaded}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	for _, dst := range []string{origin4, origin6, originMapped} {
		if got := a.do(order{Do: "dial", Dst: dst}); got.Said != plain(dst) {
			t.Errorf("of a thread in a threaded cgroup: %+v", got)
		}
	}
	a.refused(t, order{Do: "sendto", Dst: origin4})
	w.untouched(t)
}

// refused is refusedAtOnce without the limit.
func (a *agent) refused(t testing.TB, o order) {
	t.Helper()
	if got := a.do(o); got.Error != "ECONNREFUSED" {
		t.Errorf("%+v: %+v", o, got)
	}
}

// forwarders of processes outside of the cgroup are the agent's neighbours: what they connect to is theirs. One in the
// cgroup is redirected like everything in there.
func forwarders(t *testing.T, w *world, reached func(*testing.T, answer)) {
	loopback, _ := listenIn(t, w.Agent, "127.0.0.1:0")
	paths := map[string]string{"path": filepath.Join(t.TempDir(), "s"), "abstract": fmt.Sprintf("@sluice-test-%d", os.Getpid())}
	listeners := []net.Listener{loopback}
	for _, path := range paths {
		must(t, kerneltest.In(w.Agent, func() error { // a name without a file is the network namespace's
			l, err := net.Listen("unix", path)
			listeners = append(listeners, l)
			return err
		}))
	}
	done := make(chan struct{}, len(listeners))
	for _, l := range listeners {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = kerneltest.In(w.Agent, func() error {
					up, err := net.DialTimeout("tcp", origin4, 2*time.Second)
					if err == nil {
						_, _ = io.Copy(c, up)
						_ = up.Close()
					}
					return err
				})
				_ = c.Close()
			}
		}()
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			_ = l.Close()
			<-done
		}
	})
	reached(t, w.agent.do(order{Do: "dial", Dst: loopback.Addr().String()}))
	for _, path := range paths {
		reached(t, w.agent.do(order{Do: "unix", Path: path}))
	}
}
