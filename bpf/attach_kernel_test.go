package bpf_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

func TestAttachTwice(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, w.Attach(w.cgroup))
	att, err := w.Attachments()
	must(t, err)
	if len(att) != 1 || !att[0].Live || len(att[0].Hooks) != hooks || att[0].CgroupID != inode(t, w.cgroup) {
		t.Errorf("attachments %+v", att)
	}
	if last := att[0].Hooks[len(att[0].Hooks)-1]; last != "connect6" {
		t.Errorf("%s is attached last: nothing may be redirected before it can be answered", last)
	}
	before := w.count(t, "redirected")
	w.proxied(t, order{Do: "dial", Dst: origin4})
	if n := w.count(t, "redirected") - before; n != 1 {
		t.Errorf("redirected %d times", n)
	}
	must(t, w.Detach(w.cgroup))
	if err := w.Detach(w.cgroup); !errors.Is(err, bpf.ErrNotAttached) {
		t.Errorf("second detach: %v", err)
	}
	if att, err := w.Attachments(); err != nil || len(att) != 0 {
		t.Errorf("attachments %v, %v", att, err)
	}
}

// Both run; the parent's must leave alone what the child's has redirected to loopback.
func TestAttachParentAndChild(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	child := filepath.Join(w.cgroup, "child")
	must(t, os.Mkdir(child, 0o755))
	must(t, w.Attach(child))
	below := newAgent(t, child, w.Agent)
	for _, dst := range []string{origin4, origin6, originMapped} {
		before := w.count(t, "redirected")
		if got := below.do(order{Do: "dial", Dst: dst}); got.Said != plain(dst) || got.Peer != dst {
			t.Errorf("%s: %+v", dst, got)
		}
		if n := w.count(t, "redirected") - before; n != 1 {
			t.Errorf("%s: redirected %d times", dst, n)
		}
	}
	if got := w.doorman.pid.Load(); int(got) != below.cmd.Process.Pid {
		t.Errorf("flow of process %d, want %d", got, below.cmd.Process.Pid)
	}
	w.untouched(t)
	eventually(t, "no flow is left", func() bool { return w.flows(t) == 0 })
}

func TestAttachRefusesWhatIsNoCgroup(t *testing.T) {
	r := load(t, bpf.Options{PinDir: pinDir(t)})
	if err := r.Attach(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a cgroup v2 directory") {
		t.Errorf("a plain directory: %v", err)
	}
	if err := r.Attach("/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if err := r.DetachID(1 << 50); !errors.Is(err, bpf.ErrNotAttached) {
		t.Errorf("an unknown id: %v", err)
	}
}

// exclusive puts a program on a cgroup that nobody may add to, as systemd does.
func exclusive(t *testing.T, cgroup string) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	dir, err := os.Open(cgroup)
	must(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	raw := link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect}
	must(t, link.RawAttachProgram(raw))
	t.Cleanup(func() {
		_ = link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect})
	})
}

func TestExclusiveProgramIsNamed(t *testing.T) {
	pins := pinDir(t)
	r := load(t, bpf.Options{PinDir: pins})
	parent := kerneltest.Cgroup(t)
	child := filepath.Join(parent, "child")
	must(t, os.Mkdir(child, 0o755))
	exclusive(t, parent)
	for _, cgroup := range []string{child, parent} {
		err := r.Attach(cgroup)
		if err == nil || !strings.Contains(err.Error(), parent+" carries an exclusive program") || !strings.Contains(err.Error(), "connect4") {
			t.Errorf("%s: %v", cgroup, err)
		}
	}
	// Twelve hooks were on before the last one failed: none may stay.
	if left, err := filepath.Glob(filepath.Join(pins, "links", "*")); err != nil || len(left) != 0 {
		t.Errorf("pins %v, %v", left, err)
	}
	for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInetSockCreate, ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupSockOps} {
		for _, cgroup := range []string{child, parent} {
			if n := attached(t, cgroup, hook); n != 0 {
				t.Errorf("%d programs of %s on %s", n, hook, cgroup)
			}
		}
	}
	if att, err := r.Attachments(); err != nil || len(att) != 0 {
		t.Errorf("attachments %v, %v", att, err)
	}
}

func attached(t *testing.T, cgroup string, hook ebpf.AttachType) int {
	t.Helper()
	dir, err := os.Open(cgroup)
	must(t, err)
	defer func() { _ = dir.Close() }()
	res, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: hook})
	must(t, err)
	return len(res.Programs)
}

// A removed cgroup takes its hooks along; what stays are the pins.
func TestRemovedCgroup(t *testing.T) {
	kerneltest.Require(t)
	for name, restart := range map[string]bool{"told by the same daemon": false, "told by the next": true} {
		t.Run(name, func(t *testing.T) {
			pins := pinDir(t)
			r := load(t, bpf.Options{PinDir: pins})
			gone, stays := kerneltest.Cgroup(t), kerneltest.Cgroup(t)
			must(t, r.Attach(gone))
			must(t, r.Attach(stays))
			id := inode(t, gone)
			must(t, kerneltest.RemoveCgroup(gone))
			if restart {
				must(t, r.Close())
				r = load(t, bpf.Options{PinDir: pins})
			}
			find := func() *bpf.Attachment {
				all, err := r.Attachments()
				must(t, err)
				i := slices.IndexFunc(all, func(a bpf.Attachment) bool { return a.CgroupID == id })
				if i < 0 {
					return nil
				}
				return &all[i]
			}
			eventually(t, "it is not live", func() bool { a := find(); return a != nil && !a.Live && len(a.Hooks) == 0 })
			must(t, r.DetachID(id))
			if a := find(); a != nil {
				t.Errorf("still there: %+v", a)
			}
			if left, err := filepath.Glob(filepath.Join(pins, "links", "*")); err != nil || len(left) != 1 {
				t.Errorf("pins %v, %v", left, err)
			}
			// The same path is another cgroup.
			must(t, os.Mkdir(gone, 0o755))
			must(t, r.Attach(gone))
			if all, err := r.Attachments(); err != nil || len(all) != 2 || !all[0].Live || !all[1].Live {
				t.Errorf("attached again: %+v, %v", all, err)
			}
		})
	}
}

// A daemon killed in the middle of attaching, or an older one, leaves some hooks. They stay in
// force until the next attaches the rest: in between nothing gets through that did not before.
func TestHalfAttachedIsCompleted(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	id := inode(t, w.cgroup)
	pin := func(hook string) string { return filepath.Join(w.pins, "links", fmt.Sprint(id), hook) }
	must(t, w.Close())
	for _, hook := range []string{"sock_create", "bind4", "getpeername6"} {
		must(t, os.Remove(pin(hook)))
	}
	must(t, os.Mkdir(filepath.Join(w.pins, "links", "1"), 0o700)) // killed before its first pin
	w.Redirect = load(t, bpf.Options{PinDir: w.pins})
	w.doorman = welcome(t, w.Redirect, w.Agent)
	w.proxied(t, order{Do: "dial", Dst: origin4})
	if att, err := w.Attachments(); err != nil || len(att) != 1 || len(att[0].Hooks) != hooks-3 {
		t.Errorf("attachments %+v, %v", att, err)
	}
	must(t, w.Attach(w.cgroup))
	att, err := w.Attachments()
	must(t, err)
	if names := att[0].Hooks; len(names) != hooks || names[len(optional)] != "egress" || names[hooks-1] != "connect6" {
		t.Errorf("hooks %v", names)
	}
	w.proxied(t, order{Do: "dial", Dst: origin6}) // asserts getpeername6
	// A newer version's pin is not known here, and goes with the others.
	known, err := link.LoadPinnedLink(pin("connect4"), nil)
	must(t, err)
	must(t, os.Remove(pin("connect4")))
	must(t, known.Pin(pin("connect5")))
	must(t, known.Close())
	must(t, w.Detach(w.cgroup))
	if left, err := filepath.Glob(filepath.Join(w.pins, "links", "*")); err != nil || len(left) != 0 {
		t.Errorf("pins %v, %v", left, err)
	}
	for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCgroupInetSockRelease} {
		// A link whose last holder was its pin goes when the file's inode does, a grace period later.
		eventually(t, fmt.Sprintf("no program of %s is left", hook), func() bool { return attached(t, w.cgroup, hook) == 0 })
	}
}
