package bpf_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
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

// passing is a program that lets everything through.
func passing(t *testing.T, name string) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func bpftool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("bpftool", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("bpftool %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestSomebodyElseTookItOff is what a person with root does to the hooks behind the daemon's back: it is seen though
// every pin is there, and put right by Attach.
func TestSomebodyElseTookItOff(t *testing.T) {
	for name, c := range map[string]struct {
		do      func(t *testing.T, w *world, pin func(string) string)
		missing []string
	}{
		"link detach": {func(t *testing.T, _ *world, pin func(string) string) {
			bpftool(t, "link", "detach", "pinned", pin("connect4"))
		}, []string{"connect4"}},
		"all links detached": {func(t *testing.T, _ *world, pin func(string) string) {
			pins, err := filepath.Glob(pin("*"))
			must(t, err)
			for _, p := range pins {
				bpftool(t, "link", "detach", "pinned", p)
			}
		}, append(slices.Clone(optional),
			"egress", "setsockopt", "sock_create", "bind4", "bind6", "sendmsg4", "sendmsg6", "sockops", "getpeername4", "getpeername6", "connect4", "connect6")},
		"another program": {func(t *testing.T, _ *world, pin func(string) string) {
			l, err := link.LoadPinnedLink(pin("connect4"), nil)
			must(t, err)
			defer func() { _ = l.Close() }()
			must(t, l.Update(passing(t, "mallory")))
		}, []string{"connect4"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, bpf.Options{})
			pin := func(hook string) string { return filepath.Join(w.pins, "links", fmt.Sprint(inode(t, w.cgroup)), hook) }
			if got, err := w.Missing(w.cgroup); err != nil || len(got) != 0 {
				t.Fatalf("missing at first: %v, %v", got, err)
			}
			c.do(t, w, pin)
			if _, err := os.Stat(pin("connect4")); err != nil {
				t.Fatalf("the pin is what must not be believed: %v", err)
			}
			if got, err := w.Missing(w.cgroup); err != nil || !slices.Equal(got, c.missing) {
				t.Errorf("missing %v, %v", got, err)
			}
			if dropped := w.count(t, "dropped_tcp"); len(c.missing) > 1 {
				if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Said != "origin" {
					t.Errorf("the hooks were not taken off: %+v", got)
				}
				w.origin.tcp.Store(0)
			} else if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Error == "" || w.count(t, "dropped_tcp") == dropped || w.origin.tcp.Load() != 0 {
				t.Errorf("what no hook redirects is dropped: %+v", got)
			}
			must(t, w.Attach(w.cgroup))
			if got, err := w.Missing(w.cgroup); err != nil || len(got) != 0 {
				t.Errorf("missing after the mend: %v, %v", got, err)
			}
			w.proxied(t, order{Do: "dial", Dst: origin4})
			// What was mended is pinned, too: it has to outlive this process.
			must(t, w.DeleteListener(w.doorman.cookie))
			must(t, w.Close())
			w.agent.refusedAtOnce(t, order{Do: "dial", Dst: origin4})
		})
	}
}

// A vigil that was detached is put back by the next SetVigils, with the same places.
func TestVigilThatSomebodyElseTookOff(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, w.Detach(w.cgroup))
	must(t, w.SetVigils([]string{w.cgroup}))
	w.agent.refused(t, order{Do: "dial", Dst: origin4})
	pins, err := filepath.Glob(filepath.Join(w.pins, "vigil", "*", "*"))
	must(t, err)
	for _, pin := range pins {
		bpftool(t, "link", "detach", "pinned", pin)
	}
	if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Said != "origin" {
		t.Fatalf("not taken off: %+v", got)
	}
	w.origin.tcp.Store(0)
	must(t, w.SetVigils([]string{w.cgroup}))
	w.agent.refused(t, order{Do: "dial", Dst: origin4})
	w.untouched(t)
}

// TestUnpinnedIsPinnedAgain: without its pins a set ends with the daemon, and would leave everything open.
func TestUnpinnedIsPinnedAgain(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, os.RemoveAll(filepath.Join(w.pins, "links")))
	must(t, w.Attach(w.cgroup))
	if got, err := bpf.Pinned(w.pins); err != nil || len(got) != 1 || len(got[0].Hooks) != hooks {
		t.Errorf("pinned: %+v, %v", got, err)
	}
	must(t, w.DeleteListener(w.doorman.cookie))
	must(t, w.Close())
	w.agent.refusedAtOnce(t, order{Do: "dial", Dst: origin4})
	w.Redirect = load(t, bpf.Options{PinDir: w.pins})
	welcome(t, w.Redirect, w.Agent)
	w.proxied(t, order{Do: "dial", Dst: origin4})
}

// TestPinned tells of pins without touching them, while a daemon has them and after it.
func TestPinned(t *testing.T) {
	pins := pinDir(t)
	if got, err := bpf.Pinned(pins); err != nil || len(got) != 0 {
		t.Errorf("before: %v, %v", got, err)
	}
	r := load(t, bpf.Options{PinDir: pins})
	gone, stays := kerneltest.Cgroup(t), kerneltest.Cgroup(t)
	must(t, r.Attach(gone))
	must(t, r.Attach(stays))
	id := inode(t, gone)
	must(t, kerneltest.RemoveCgroup(gone))
	must(t, r.Close())
	eventually(t, "the zombie is told", func() bool {
		got, err := bpf.Pinned(pins)
		must(t, err)
		i := slices.IndexFunc(got, func(a bpf.Attachment) bool { return a.CgroupID == id })
		return len(got) == 2 && i >= 0 && !got[i].Live && len(got[i].Hooks) == 0 && got[1-i].Live && len(got[1-i].Hooks) == hooks
	})
	if left, err := filepath.Glob(filepath.Join(pins, "links", "*", "*")); err != nil || len(left) != 2*hooks {
		t.Errorf("%d pins, %v", len(left), err)
	}
}

// A cgroup made again under the same path carries nothing, however alive the old pins look.
func TestMissingIsOfTheCgroupThatIsThere(t *testing.T) {
	r := load(t, bpf.Options{PinDir: pinDir(t)})
	dir := kerneltest.Cgroup(t)
	must(t, r.Attach(dir))
	must(t, kerneltest.RemoveCgroup(dir))
	must(t, os.Mkdir(dir, 0o755))
	if got, err := r.Missing(dir); err != nil || len(got) != hooks {
		t.Errorf("missing %v, %v", got, err)
	}
	// Hooks of a cgroup above count: they run for this one's processes.
	child := filepath.Join(dir, "child")
	must(t, os.Mkdir(child, 0o755))
	must(t, r.Attach(dir))
	if got, err := r.Missing(child); err != nil || len(got) != 0 {
		t.Errorf("missing below: %v, %v", got, err)
	}
}

// The message names the program, whose it is and the way out, and the way out works.
func TestExclusiveProgramsWayOut(t *testing.T) {
	r := load(t, bpf.Options{PinDir: pinDir(t)})
	parent := kerneltest.Cgroup(t)
	child := filepath.Join(parent, "child")
	must(t, os.Mkdir(child, 0o755))
	for name, says := range map[string]string{"sd_fw_egress": "Delegate=yes in " + filepath.Base(parent), "mallory": "have whoever attached it share"} {
		p := passing(t, name)
		pinned := filepath.Join(kerneltest.BPFFS(t), "p")
		must(t, p.Pin(pinned))
		bpftool(t, "cgroup", "attach", parent, "connect4", "pinned", pinned)
		err := r.Attach(child)
		info, infoErr := p.Info()
		must(t, infoErr)
		id, _ := info.ID()
		out := fmt.Sprintf("bpftool cgroup detach %s connect4 id %d", parent, id)
		for _, want := range []string{"attach connect4 to " + child, parent + " carries an exclusive program", fmt.Sprintf("%q (id %d)", name, id), says, out} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, without %q", name, err, want)
			}
		}
		bpftool(t, strings.Fields(out)[1:]...)
		must(t, r.Attach(child))
		must(t, r.Detach(child))
	}
}

// A cgroup in between that shares is none to blame, nor one that may be overridden.
func TestSharedAndOverridableProgramsAreNotInTheWay(t *testing.T) {
	r := load(t, bpf.Options{PinDir: pinDir(t)})
	for _, flag := range []string{"multi", "override"} {
		parent := kerneltest.Cgroup(t)
		child := filepath.Join(parent, "child")
		must(t, os.Mkdir(child, 0o755))
		pinned := filepath.Join(kerneltest.BPFFS(t), "p")
		must(t, passing(t, "other").Pin(pinned))
		bpftool(t, "cgroup", "attach", parent, "connect4", "pinned", pinned, flag)
		if err := r.Attach(child); err != nil {
			t.Errorf("below %s: %v", flag, err)
		}
		err := r.Attach(parent)
		if multi := flag == "multi"; (err == nil) != multi || (!multi && !strings.Contains(err.Error(), `"other"`)) {
			t.Errorf("beside %s: %v", flag, err)
		}
	}
}

// What bpftool shows of a cgroup is what Missing counts.
func TestMissingAgreesWithBpftool(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	var shown []struct {
		Name string `json:"name"`
	}
	must(t, json.Unmarshal([]byte(bpftool(t, "-j", "cgroup", "show", w.cgroup, "effective")), &shown))
	ours := 0
	for _, p := range shown {
		if strings.HasPrefix(p.Name, "sluice_") {
			ours++
		}
	}
	missing, err := w.Missing(w.cgroup)
	must(t, err)
	if ours != hooks || len(missing) != 0 {
		t.Errorf("bpftool shows %d of ours, %v are missing", ours, missing)
	}
}

// Every target is looked at every five seconds: of a program only its id is needed, which it keeps.
func TestMissingAsksForProgramsOnce(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	const each = 12 // allocations of a query
	if n := testing.AllocsPerRun(20, func() {
		if _, err := w.Missing(w.cgroup); err != nil {
			t.Fatal(err)
		}
	}); n > float64(each*hooks) {
		t.Errorf("%v allocations for %d hooks", n, hooks)
	}
}
