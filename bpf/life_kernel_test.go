package bpf_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestWaysRoundInTime is those ways that lie in when something happens.
func TestWaysRoundInTime(t *testing.T) {
	kerneltest.Require(t)
	t.Run("case_20_socket_older_than_the_attach", func(t *testing.T) {
		w := newWorld(t, bpf.Options{})
		must(t, w.Detach(w.cgroup))
		for name, dst := range map[string]string{"four": origin4, "six": origin6} {
			if got := w.agent.do(order{Do: "socket", Socket: name, Dst: dst}); got.Error != "" {
				t.Fatalf("%+v", got)
			}
		}
		multi := w.agent.do(order{Do: "socket", Socket: "multi", Proto: unix.IPPROTO_MPTCP, Dst: origin4})
		must(t, w.Attach(w.cgroup))
		for name, dst := range map[string]string{"four": origin4, "six": origin6} {
			if got := w.agent.do(order{Do: "connect", Socket: name, Dst: dst}); got.Said != dst || got.Peer != dst {
				t.Errorf("%s: %+v", dst, got)
			}
		}
		if multi.Error == "" { // its getpeername tells of the listener, and nothing else is different
			for _, dst := range []string{origin4, "10.77.0.1:8443"} {
				if got := w.agent.do(order{Do: "connect", Socket: "multi", Dst: dst}); got.Said != dst {
					t.Errorf("MPTCP to %s: %+v", dst, got)
				}
				w.agent.do(order{Do: "disconnect", Socket: "multi"})
			}
		}
		w.untouched(t)
	})
	t.Run("case_24_unshared_namespace", func(t *testing.T) { unshared(t) })
	t.Run("case_31_daemon_killed", func(t *testing.T) { killed(t) })
	t.Run("case_32_daemon_killed_fail_open", func(t *testing.T) {
		w := newStreet(t)
		kill := startDaemon(t, w.pins, w.cgroup, true)
		a := newAgent(t, w.cgroup, w.Agent)
		if got := a.do(order{Do: "dial", Dst: origin4}); got.Error != "ECONNREFUSED" {
			t.Errorf("without a listener: %+v", got)
		}
		kill()
		eventually(t, "the kernel takes the hooks off", func() bool { return a.do(order{Do: "dial", Dst: origin4}).Said == "origin" })
	})
	t.Run("listener_that_does_not_accept", func(t *testing.T) { stalled(t) })
	t.Run("case_34_cgroup_removed_and_made_again", TestRemovedCgroup)
	t.Run("case_34_what_is_there_counts", TestMissingIsOfTheCgroupThatIsThere)
	t.Run("case_35_attached_twice", TestAttachTwice)
	t.Run("case_35_parent_and_child", TestAttachParentAndChild)
	t.Run("case_35_exclusive_ancestor", TestExclusiveProgramsWayOut)
	t.Run("case_47_flows_full", func(t *testing.T) { full(t, false) })
	t.Run("case_47_flows_full_parent_and_child", func(t *testing.T) { full(t, true) })
	t.Run("case_47_flows_full_put_off", func(t *testing.T) { fullPutOff(t) })
	t.Run("case_48_loopback_down", func(t *testing.T) {
		w := newWorld(t, bpf.Options{})
		must(t, run(t, "ip", "-n", filepath.Base(w.Agent), "link", "set", "lo", "down"))
		for _, dst := range []string{origin4, origin6, originMapped} {
			if got := w.agent.do(order{Do: "dial", Dst: dst}); got.Error == "" {
				t.Errorf("%s: %+v", dst, got)
			}
		}
		w.untouched(t)
		eventually(t, "no place is kept", func() bool { return w.flows(t) == 0 })
		must(t, run(t, "ip", "-n", filepath.Base(w.Agent), "link", "set", "lo", "up"))
		w.proxied(t, order{Do: "dial", Dst: origin4})
	})
}

// street is a world before any daemon.
type street struct {
	kerneltest.Pair
	cgroup, pins string
	origin       *origin
}

func newStreet(t testing.TB) *street {
	s := &street{cgroup: kerneltest.Cgroup(t), Pair: kerneltest.NewPair(t), pins: pinDir(t)}
	s.origin = newOrigin(t, s.Server)
	return s
}

func unshared(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	events, err := w.Events()
	must(t, err)
	defer func() { _ = events.Close() }()
	ns := w.agent.do(order{Do: "unshare"}).Said
	// Root moves a link in; with it the origin could be reached.
	must(t, run(t, "ip", "-n", filepath.Base(w.Agent), "link", "set", w.Link, "netns", ns))
	must(t, run(t, "nsenter", "--net="+ns, "sh", "-c", "ip link set lo up; ip addr add 10.77.0.2/24 dev "+w.Link+"; ip link set "+w.Link+" up"))
	if got := w.agent.do(order{Do: "dial", Dst: "10.77.0.1:80"}); got.Said != "origin" {
		t.Fatalf("the way to the origin does not work: %+v", got)
	}
	before := w.origin.tcp.Swap(0)
	if before != 1 {
		t.Errorf("origin saw %d", before)
	}
	if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Error != "ECONNREFUSED" {
		t.Errorf("before it is adopted: %+v", got)
	}
	ev, err := events.Read()
	must(t, err)
	d := welcome(t, w.Redirect, ns)
	if ev.Cookie != d.cookie || int(ev.PID) != w.agent.cmd.Process.Pid || ev.CgroupID != inode(t, w.cgroup) {
		t.Errorf("event %+v, want cookie %d of process %d", ev, d.cookie, w.agent.cmd.Process.Pid)
	}
	w.proxied(t, order{Do: "dial", Dst: origin4})
}

func killed(t *testing.T) {
	s := newStreet(t)
	kill := startDaemon(t, s.pins, s.cgroup, false)
	if _, err := bpf.Load(bpf.Options{PinDir: s.pins}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second daemon: %v", err)
	}
	kill()
	a := newAgent(t, s.cgroup, s.Agent)
	for _, dst := range []string{origin4, origin6, originMapped} {
		a.refusedAtOnce(t, order{Do: "dial", Dst: dst})
	}
	r := load(t, bpf.Options{PinDir: s.pins})
	if !r.Adopted() {
		t.Error("the maps were not adopted")
	}
	welcome(t, r, s.Agent)
	w := &world{Redirect: r, agent: a, origin: s.origin}
	w.proxied(t, order{Do: "dial", Dst: origin4}) // nothing was attached again, no port bound again
}

// stalled is a daemon that was stopped (SIGSTOP): its listeners are there, and what the kernel takes in for them is not
// accepted. Clients wait and give up; nothing gets anywhere.
func stalled(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	var fd int
	must(t, kerneltest.In(w.Agent, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1))
	}))
	defer func() { _ = unix.Close(fd) }()
	name, err := unix.Getsockname(fd)
	must(t, err)
	must(t, w.SetListener(w.doorman.cookie, bpf.Listener{Port4: uint16(name.(*unix.SockaddrInet4).Port)}))
	waited := false
	for i := range 4 {
		name := fmt.Sprint(i)
		w.agent.do(order{Do: "socket", Socket: name, Dst: origin4})
		got := w.agent.do(order{Do: "connect", Socket: name, Dst: origin4}) // with a limit of 2 s for each of connect and read
		if got.Said != "" || (got.Error != "EAGAIN" && got.Error != "EINPROGRESS") {
			t.Errorf("%d: %+v", i, got)
		}
		waited = waited || got.Error == "EINPROGRESS"
	}
	if !waited {
		t.Error("the backlog did not fill up")
	}
	w.untouched(t)
	for i := range 4 {
		w.agent.do(order{Do: "close", Socket: fmt.Sprint(i)})
	}
	welcome(t, w.Redirect, w.Agent)
	w.proxied(t, order{Do: "dial", Dst: origin4})
}

// full fills what a target alone may have of the map, which is a third. Where the hooks of a parent run as well each flow counts once, when
// it comes and when it goes.
func full(t *testing.T, nested bool) {
	const size = 4
	w := newWorld(t, bpf.Options{MaxFlows: 3 * size})
	if nested {
		child := filepath.Join(w.cgroup, "child")
		must(t, os.Mkdir(child, 0o755))
		must(t, w.Attach(child))
		w.agent = newAgent(t, child, w.Agent)
	}
	for range 2 { // what closed gave its place back, once
		mute, cookie := listenIn(t, w.Agent, "127.0.0.1:0") // accepts in the kernel, takes no flow
		must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(mute)}))
		for i := range size {
			name := fmt.Sprint(i)
			w.agent.do(order{Do: "socket", Socket: name, Dst: origin4})
			if got := w.agent.do(order{Do: "connect", Socket: name, Dst: origin4, Data: "mute"}); got.Error != "" {
				t.Fatalf("connect %d: %+v", i, got)
			}
		}
		before := w.count(t, "refused_share_full")
		w.agent.refusedAtOnce(t, order{Do: "dial", Dst: origin4})
		if n := w.count(t, "refused_share_full"); n == before {
			t.Error("not counted")
		}
		if n := w.flows(t); n != size {
			t.Errorf("%d flows", n)
		}
		for i := range size {
			w.agent.do(order{Do: "close", Socket: fmt.Sprint(i)})
		}
		must(t, mute.Close()) // resets them: they close, and are deleted without anybody taking them
		eventually(t, "closed connections leave no flow", func() bool { return w.flows(t) == 0 })
		w.untouched(t)
		welcome(t, w.Redirect, w.Agent)
		for range 2 * size { // and so does what is taken
			w.proxied(t, order{Do: "dial", Dst: origin4})
		}
	}
}

// fullPutOff connects more sockets than there is room for before the first of them is counted, which is when its data leaves. The map
// takes what one target may have, a quarter more than it could have had at once, and the rest gets nowhere.
func fullPutOff(t *testing.T) {
	const size, room, over = 12, 5, 5
	w := newWorld(t, bpf.Options{MaxFlows: size})
	sysctl(t, w.Agent, "ipv4/tcp_fastopen", "1031")
	mute, cookie := listenIn(t, w.Agent, "127.0.0.1:0")
	must(t, w.SetListener(cookie, bpf.Listener{Port4: portOf(mute)}))
	if got := w.agent.do(order{Do: "put off", N: room + over, Dst: origin4}); got.Error != "" {
		t.Fatalf("%+v", got)
	}
	if n := w.flows(t); n != 0 {
		t.Fatalf("%d flows before the first data", n)
	}
	before := w.count(t, "lost_publish")
	w.agent.do(order{Do: "say all", N: room + over})
	if n, lost := w.flows(t), w.count(t, "lost_publish")-before; n != room || lost != over {
		t.Errorf("%d flows and %d without, want %d and %d", n, lost, room, over)
	}
	w.agent.refusedAtOnce(t, order{Do: "dial", Dst: origin4})
	late := &doorman{r: w.Redirect, cookie: cookie}
	t.Cleanup(late.group.Wait)
	t.Cleanup(func() { _ = mute.Close() })
	late.serve(t, mute)
	if got := w.agent.do(order{Do: "hear all", N: room + over, Dst: origin4}); got.Error != "" || got.N != room || len(got.Wrong) != over {
		t.Errorf("%+v", got)
	}
	if n := late.noFlow.Load(); n != over {
		t.Errorf("%d connections without a flow, want %d", n, over)
	}
	w.untouched(t)
	eventually(t, "no flow is left", func() bool { return w.flows(t) == 0 })
	welcome(t, w.Redirect, w.Agent)
	w.proxied(t, order{Do: "dial", Dst: origin4})
}

// TestManyConnections is case 27: no destination is mixed up, and no entry is left. `make soak`
// has each of the hundred ports used two thousand times.
func TestManyConnections(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	check := func(t *testing.T, n int, got answer) {
		t.Helper()
		if got.Error != "" || len(got.Wrong) != 0 || got.N != n {
			t.Errorf("%+v", got)
		}
		eventually(t, "flows is back at 0", func() bool { return w.flows(t) == 0 })
		w.untouched(t)
		if n := w.doorman.noFlow.Load(); n != 0 {
			t.Errorf("%d connections without a flow", n)
		}
		t.Logf("%d connections in %s", n, got.Took)
	}
	t.Run("case_27_parallel_20000", func(t *testing.T) {
		const n = 20000
		check(t, n, w.agent.do(order{Do: "many", N: n}))
		if got := w.count(t, "redirected"); got != n {
			t.Errorf("counted %d", got)
		}
	})
	t.Run("case_27_sequential_on_100_ports", func(t *testing.T) {
		n := 20000
		if os.Getenv("SLUICE_SOAK") != "" {
			n = 200000
		}
		sysctl(t, w.Agent, "ipv4/ip_local_port_range", "40000 40099")
		check(t, n, w.agent.do(order{Do: "sequential", N: n}))
	})
}
