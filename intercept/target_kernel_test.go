package intercept

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

func TestAttachTwiceIsTheSameTarget(t *testing.T) {
	dir := newCgroup(t)
	b := newBench(t, nil)
	first, err := b.Attach(t.Context(), Request{Cgroup: dir, Pools: []string{"p", "q"}})
	must(t, err)
	pid, _ := startIn(t, dir, nil)
	again, err := b.Attach(t.Context(), Request{Kind: KindPID, PID: pid, Pools: []string{"q", "p"}})
	must(t, err)
	if again.ID != first.ID || len(b.Targets()) != 1 {
		t.Errorf("second attach made %+v", again)
	}
	if _, err := b.Attach(t.Context(), Request{Cgroup: dir}); !errors.Is(err, ErrConflict) {
		t.Errorf("for other pools: %v", err)
	}
}

// A cgroup that was made again is attached when Attach returns, also if the daemon has not heard yet that it had gone, or has, and
// not that it is back.
func TestAttachOfWhatWasMadeAgain(t *testing.T) {
	dir := newCgroup(t)
	b := newBench(t, nil)
	first, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	again := func() {
		t.Helper()
		must(t, os.Remove(dir))
		must(t, os.Mkdir(dir, 0o755))
	}
	for i := range 200 {
		again()
		time.Sleep(time.Duration(i%20) * 50 * time.Microsecond) // it hears of it at some time or other
		got, err := b.Attach(t.Context(), Request{Cgroup: dir})
		if err != nil || got.ID != first.ID || got.State != StateAttached {
			t.Fatalf("the %dth time: %v, %+v", i+1, err, got)
		}
	}
	again()
	eventually(t, "it is followed as before", func() bool { return b.Targets()[0].State == StateAttached })

	b.kernel.set("attach", errors.New("an exclusive program"))
	again()
	eventually(t, "it fails", func() bool { return b.Targets()[0].State == StateFailed })
	if got, err := b.Attach(t.Context(), Request{Cgroup: dir}); err == nil || !strings.Contains(err.Error(), "an exclusive program") {
		t.Errorf("while it cannot be attached: %v, %+v", err, got)
	}
	b.kernel.set("attach", nil)
	got, err := b.Attach(t.Context(), Request{Cgroup: dir})
	if err != nil || got.State != StateAttached {
		t.Errorf("once it can: %v, %+v", err, got)
	}
	again()
	eventually(t, "it is followed again", func() bool { return b.Targets()[0].State == StateAttached })
}

func TestAttachRefusals(t *testing.T) {
	dir := newCgroup(t)
	mount, err := cgroup.Mount()
	must(t, err)
	b := newBench(t, nil)
	for name, c := range map[string]struct {
		r    Request
		want error
		says string
	}{
		"absent":       {Request{Cgroup: dir + "-absent"}, fs.ErrNotExist, "no such file"},
		"the root":     {Request{Cgroup: mount}, cgroup.ErrOwn, "sluice itself"},
		"no cgroup":    {Request{Cgroup: t.TempDir()}, cgroup.ErrNotCgroup, mount},
		"nothing":      {Request{}, nil, "no cgroup given"},
		"no process":   {Request{Kind: KindPID, PID: 1 << 30}, fs.ErrNotExist, "no process"},
		"our own":      {Request{Kind: KindPID, PID: os.Getpid()}, cgroup.ErrOwn, "process"},
		"unknown kind": {Request{Kind: "vm", Cgroup: dir}, nil, "unknown kind"},
	} {
		_, err := b.Attach(t.Context(), c.r)
		if err == nil || !strings.Contains(err.Error(), c.says) || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	assertNothing(t, b)
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	startIn(t, dir, n)
	b.kernel.set("attach", errors.New("an exclusive program"))
	if _, err := b.Attach(t.Context(), Request{Cgroup: dir}); err == nil || !strings.Contains(err.Error(), "an exclusive program") {
		t.Errorf("attach: %v", err)
	}
	assertNothing(t, b)
	b.kernel.set("attach", nil)
	b.memory.fail = errors.New("disk full")
	if _, err := b.Attach(t.Context(), Request{Cgroup: dir}); !errors.Is(err, b.memory.fail) && err == nil {
		t.Errorf("attach: %v", err)
	}
	assertNothing(t, b)
}

func TestOlderConnectionsAreClosedByAttach(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	v4, v6, err := n.Loopback(t.Context()) // brings lo up
	must(t, err)
	v4.Close()
	v6.Close()
	origin, err := n.Listen(t.Context(), "tcp4", originAddr+":443")
	must(t, err)
	defer origin.Close()
	must(t, origin.SetDeadline(time.Now().Add(5*time.Second)))
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	// Connects, and then says how its read ended.
	cmd := exec.Command("bash", "-c", "exec 3<>/dev/tcp/"+originAddr+"/443; read -r x <&3; echo \"read ended: $?\"")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	var out strings.Builder
	cmd.Stdout = &out
	must(t, n.Do(cmd.Start))
	accepted, err := origin.AcceptTCP()
	must(t, err)
	defer accepted.Close()
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	if target.Destroyed != 1 {
		t.Errorf("%d connections closed", target.Destroyed)
		accepted.Close()
	}
	_ = cmd.Wait()
	if !strings.Contains(out.String(), "read ended: 1") {
		t.Errorf("the process said %q", out.String())
	}
}

func TestDetachUnknown(t *testing.T) {
	b := newBench(t, nil)
	if err := b.Detach(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
		t.Errorf("detach: %v", err)
	}
}

func TestDetachAllLeavesNothing(t *testing.T) {
	one, two, n := newCgroup(t), newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	startIn(t, one, n)
	startIn(t, two, n) // the same namespace, of two targets
	for _, dir := range []string{one, two} {
		_, err := b.Attach(t.Context(), Request{Cgroup: dir})
		must(t, err)
	}
	list := b.Targets()
	if len(list) != 2 || len(list[0].Namespaces) != 1 || len(list[1].Namespaces) != 1 {
		t.Fatalf("targets %+v", list)
	}
	must(t, b.Detach(t.Context(), list[0].ID))
	if !b.listens(n) {
		t.Error("the other target lost its listener")
	}
	must(t, b.DetachAll(t.Context()))
	assertNothing(t, b)
}

// countingHooks counts what is asked of all cgroups together.
type countingHooks struct {
	*ledger
	vigils, asked atomic.Int64
}

func (h *countingHooks) SetVigils([]string) error {
	h.vigils.Add(1)
	return nil
}

func (h *countingHooks) Attachments() ([]bpf.Attachment, error) {
	h.asked.Add(1)
	return h.ledger.Attachments()
}

// TestDetachAllLooksAtAllOnce: what is kept of all targets together follows once, and not for each of them.
func TestDetachAllLooksAtAllOnce(t *testing.T) {
	var hooks countingHooks
	b := newBench(t, func(b *bench, o *Options) {
		hooks.ledger = b.kernel
		o.Hooks, o.Listeners, o.Flows, o.Events, o.Vigils = &hooks, &hooks, &hooks, &hooks, &hooks
		o.Look = time.Hour
	})
	for range 5 {
		_, err := b.Attach(t.Context(), Request{Cgroup: newCgroup(t)})
		must(t, err)
	}
	hooks.vigils.Store(0)
	hooks.asked.Store(0)
	must(t, b.DetachAll(t.Context()))
	if set, asked := hooks.vigils.Load(), hooks.asked.Load(); set != 1 || asked > 0 {
		t.Errorf("vigils set %d times, attachments asked for %d times", set, asked)
	}
	assertNothing(t, b)
}

func TestOwnerOfAFlow(t *testing.T) {
	parent := newCgroup(t)
	leaf := filepath.Join(parent, "child", "leaf")
	must(t, os.MkdirAll(leaf, 0o755))
	b := newBench(t, nil)
	target, err := b.Attach(t.Context(), Request{Cgroup: parent})
	must(t, err)
	id, err := cgroup.ID(leaf)
	must(t, err)
	for range 2 { // found, then cached
		if got, ok := b.owner(id); !ok || got.ID != target.ID {
			t.Errorf("owner of the leaf is %v", got)
		}
	}
	if _, ok := b.owner(1); ok {
		t.Error("the root has an owner")
	}
	must(t, b.Detach(t.Context(), target.ID))
	if _, ok := b.owner(id); ok {
		t.Error("the leaf has an owner after the detach")
	}
}

func TestNestedCgroupsAreRefused(t *testing.T) {
	parent := newCgroup(t)
	middle := filepath.Join(parent, "child")
	leaf := filepath.Join(middle, "leaf")
	must(t, os.MkdirAll(leaf, 0o755))
	b := newBench(t, nil)
	target, err := b.Attach(t.Context(), Request{Cgroup: middle})
	must(t, err)
	for _, dir := range []string{parent, leaf} {
		if _, err := b.Attach(t.Context(), Request{Cgroup: dir}); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), target.ID) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	beside := filepath.Join(parent, "children")
	must(t, os.Mkdir(beside, 0o755))
	_, err = b.Attach(t.Context(), Request{Cgroup: beside})
	must(t, err)
}

func TestRemovedCgroupIsWaitedForAndAttachedAgain(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	_, stop := startIn(t, dir, n)
	before, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	stop()
	removeCgroup(dir)
	eventually(t, "the target waits", func() bool { return b.Targets()[0].State == StateWaiting })
	eventually(t, "programs and listeners are off", func() bool {
		attached, listeners := b.kernel.counts()
		return attached+listeners == 0
	})
	must(t, os.Mkdir(dir, 0o755))
	eventually(t, "it is attached again", func() bool { return b.Targets()[0].State == StateAttached })
	now := b.Targets()[0]
	if now.ID != before.ID || now.CgroupID == before.CgroupID {
		t.Errorf("is %+v, was %+v", now, before)
	}
	startIn(t, dir, n)
	eventually(t, "a listener again", func() bool { return b.listens(n) })
	eventually(t, "the new cgroup is remembered", func() bool {
		list, err := b.memory.List(t.Context())
		return err == nil && list[0].CgroupID == now.CgroupID
	})
}

func TestRestartRestores(t *testing.T) {
	dir, gone, n := newCgroup(t), newCgroup(t), newNetNS(t)
	b := newBench(t, nil)
	startIn(t, dir, n)
	kept, err := b.Attach(t.Context(), Request{Cgroup: dir, Pools: []string{"p"}})
	must(t, err)
	lost, err := b.Attach(t.Context(), Request{Cgroup: gone})
	must(t, err)
	run := newCgroup(t)
	_, err = b.Attach(t.Context(), Request{Kind: KindRun, Cgroup: run})
	must(t, err)
	before, _ := b.kernel.listener(n.Cookie())
	b.stop()
	removeCgroup(gone)
	removeCgroup(run)
	stray := newCgroup(t) // attached, but remembered by nobody
	must(t, b.kernel.Attach(stray))
	must(t, b.kernel.SetListener(1<<40, bpf.Listener{Port4: 9})) // of a namespace long gone

	kernel := newLedger() // the maps and links stay; the daemon is a new one
	kernel.attached, kernel.listeners = b.kernel.attached, b.kernel.listeners
	next := newBench(t, func(n *bench, _ *Options) { n.kernel, n.memory = kernel, b.memory })
	after, ok := kernel.listener(n.Cookie())
	if !ok || after == before {
		t.Errorf("listener %v, was %v: a new one must be there once Ready is closed", after, before)
	}
	list := next.Targets()
	if len(list) != 2 || list[0].ID != kept.ID || list[0].State != StateAttached || list[0].Pools[0] != "p" ||
		list[1].ID != lost.ID || list[1].State != StateWaiting || list[1].Reason == "" {
		t.Errorf("restored %+v", list)
	}
	if attached, listeners := kernel.counts(); attached != 1 || listeners != 1 {
		t.Errorf("%d cgroups attached, %d listeners; want only the restored ones", attached, listeners)
	}
	must(t, os.Mkdir(gone, 0o755))
	eventually(t, "the other is attached when it comes back", func() bool { return next.Targets()[1].State == StateAttached })
}

func TestPortsFollowTheBindings(t *testing.T) {
	b := newBench(t, nil)
	b.routes.bind(8443)
	eventually(t, "the new port", func() bool {
		b.kernel.mu.Lock()
		defer b.kernel.mu.Unlock()
		return len(b.kernel.ports) == 2 && b.kernel.ports[1] == 8443
	})
}

// Where the kernel lacks what every target needs, nothing is attached, remembered or put on a cgroup, and who asks is told what it is. What is
// remembered from another kernel stays so, and says the same.
func TestAttachOnAKernelThatLacksSomething(t *testing.T) {
	dir := newCgroup(t)
	lacking := &bpf.UnsupportedError{Feature: "something", MinKernel: "7.0"}
	b := newBench(t, func(b *bench, o *Options) {
		o.Lacking = lacking
		b.memory.rows["t-1"] = Target{ID: "t-1", Kind: KindCgroup, Ref: dir, Cgroup: dir}
	})
	for _, r := range []Request{{Cgroup: dir}, {Kind: KindPID, PID: os.Getpid()}, {Kind: KindContainer, Container: "later"}, {Kind: KindSelector, Selector: "a=b"}} {
		if got, err := b.Attach(t.Context(), r); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "something is not supported by this kernel (needs Linux 7.0)") {
			t.Errorf("%+v: %v, %+v", r, err, got)
		}
	}
	if all := b.Targets(); len(all) != 1 || all[0].State != StateFailed || !strings.Contains(all[0].Reason, "needs Linux 7.0") {
		t.Errorf("targets: %+v", all)
	}
	if on, err := b.kernel.Attachments(); err != nil || len(on) > 0 || b.memory.len() != 1 {
		t.Errorf("hooks on %v (%v), %d remembered", on, err, b.memory.len())
	}
}
