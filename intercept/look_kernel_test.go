package intercept

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// pinnedBench is a bench with the real programs, and where those have their pins.
func pinnedBench(t *testing.T, look time.Duration, vigil bool) (*bench, *bpf.Redirect, string) {
	t.Helper()
	pins := filepath.Join(kerneltest.BPFFS(t), "sluice")
	r, err := bpf.Load(bpf.Options{PinDir: pins})
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	b := newBench(t, func(b *bench, o *Options) {
		onKernel(t, r)(b, o)
		o.Look = look
		if !vigil {
			o.Vigils = nil
		}
	})
	return b, r, pins
}

// detachLink is what somebody else with root can do to a hook: its pin stays.
func detachLink(t *testing.T, pins string, id uint64, hook string) {
	t.Helper()
	out, err := exec.Command("bpftool", "link", "detach", "pinned", filepath.Join(pins, "links", fmt.Sprint(id), hook)).CombinedOutput()
	if err != nil {
		t.Fatalf("bpftool: %v: %s", err, out)
	}
}

// TestNotInForceIsSeenAndMendedOnRequest has a daemon that looks once an hour: what it says is asked for, and attaching
// the same again mends it.
func TestNotInForceIsSeenAndMendedOnRequest(t *testing.T) {
	dir := newCgroup(t)
	b, r, pins := pinnedBench(t, time.Hour, true)
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	if target.State != StateAttached {
		t.Fatalf("%+v", target)
	}
	for _, hook := range []string{"connect4", "sock_create"} {
		detachLink(t, pins, target.CgroupID, hook)
	}
	got := b.Targets()[0]
	if got.State != StateNotInForce || !strings.Contains(got.Reason, "sock_create, connect4") {
		t.Errorf("%+v", got)
	}
	again, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	if again.State != StateAttached || again.Reason != "" || again.ID != target.ID || b.Targets()[0].State != StateAttached {
		t.Errorf("mended: %+v", again)
	}
	if missing, err := r.Missing(dir); err != nil || len(missing) != 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
}

// TestNotInForceIsRefused: while it is not mended the vigil on the parent refuses what nobody redirects.
func TestNotInForceIsRefused(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b, _, pins := pinnedBench(t, time.Hour, true)
	talker(t, n)
	startIn(t, dir, n)
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	for _, hook := range []string{"connect4", "connect6", "sock_create", "sockops"} {
		detachLink(t, pins, target.CgroupID, hook)
	}
	if got := shell(t, dir, n, ask(originAddr)); !strings.Contains(got, "refused") {
		t.Errorf("got %q", got)
	}
}

// TestNotInForceIsMended is without that vigil: the daemon's next look puts it back, and what was connected past it
// meanwhile is closed.
func TestNotInForceIsMended(t *testing.T) {
	dir, n := newCgroup(t), newNetNS(t)
	b, r, pins := pinnedBench(t, 200*time.Millisecond, false)
	v4, v6, err := n.Loopback(t.Context())
	must(t, err)
	v4.Close()
	v6.Close()
	origin, err := n.Listen(t.Context(), "tcp4", originAddr+":443")
	must(t, err)
	defer origin.Close()
	must(t, origin.SetDeadline(time.Now().Add(10*time.Second)))
	startIn(t, dir, n)
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	b.ops.Lock() // no look, however slow this machine is
	detachLink(t, pins, target.CgroupID, "connect4")
	// Until the look it gets through, as the state says. The process tells how its read ended.
	said := make(chan string, 1)
	go func() {
		said <- shell(t, dir, n, "exec 3<>/dev/tcp/"+originAddr+"/443; read -r x <&3; echo \"read ended: $?\"")
	}()
	accepted, err := origin.AcceptTCP()
	b.ops.Unlock()
	must(t, err)
	defer accepted.Close()
	eventually(t, "it is put back", func() bool {
		missing, err := r.Missing(dir)
		return err == nil && len(missing) == 0
	})
	if got := <-said; !strings.Contains(got, "read ended: 1") {
		t.Errorf("the connection made meanwhile: %q", got)
	}
	eventually(t, "it is attached, and the one connection counted", func() bool {
		got := b.Targets()[0]
		return got.State == StateAttached && got.Destroyed == 1
	})
}

// TestRemovedAndMadeAgainIsReportedAndAttached goes past the watch: what the path stands for now is what counts.
func TestRemovedAndMadeAgainIsReportedAndAttached(t *testing.T) {
	dir := newCgroup(t)
	b, r, pins := pinnedBench(t, 200*time.Millisecond, true)
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	b.mu.RLock()
	live := b.targets[target.ID]
	b.mu.RUnlock()
	b.ops.Lock()
	live.part() // as if the watch of the cgroup had failed
	removeCgroup(dir)
	must(t, os.Mkdir(dir, 0o755))
	id, err := cgroup.ID(dir)
	must(t, err)
	got := b.Targets()[0]
	if got.State != StateNotInForce || !strings.Contains(got.Reason, "removed and made again") || !strings.Contains(got.Reason, fmt.Sprint(id)) {
		t.Errorf("%+v", got)
	}
	b.ops.Unlock()
	eventually(t, "the one that is there is attached", func() bool { return b.Targets()[0].State == StateAttached })
	if missing, err := r.Missing(dir); err != nil || len(missing) != 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
	// No zombie is left: the pins are of the cgroup that is there.
	pinned, err := bpf.Pinned(pins)
	must(t, err)
	if !slices.EqualFunc(pinned, []uint64{id}, func(a bpf.Attachment, id uint64) bool { return a.CgroupID == id && a.Live }) {
		t.Errorf("pinned %+v", pinned)
	}
	// And it is followed: the next removal is seen by the watch.
	removeCgroup(dir)
	eventually(t, "it waits", func() bool { return b.Targets()[0].State == StateWaiting })
	eventually(t, "its programs are off", func() bool {
		pinned, err := bpf.Pinned(pins)
		return err == nil && len(pinned) == 0
	})
}
