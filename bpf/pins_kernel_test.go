package bpf_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

func TestLoadAdoptsItsPins(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	if w.Adopted() {
		t.Error("adopted what was not there")
	}
	w.proxied(t, order{Do: "dial", Dst: origin4})
	before, err := w.Listeners()
	must(t, err)
	must(t, w.Close())
	// The doorman's sockets still listen, but it can take no flow: as in a restart
	// that keeps its sockets. Without them it is refused.
	again := load(t, bpf.Options{PinDir: w.pins})
	if !again.Adopted() {
		t.Error("not adopted")
	}
	if after, err := again.Listeners(); err != nil || len(after) != 1 || after[w.doorman.cookie] != before[w.doorman.cookie] {
		t.Errorf("listeners %v, %v; were %v", after, err, before)
	}
	must(t, again.DeleteListener(w.doorman.cookie))
	if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Error != "ECONNREFUSED" {
		t.Errorf("without a listener: %+v", got)
	}
	att, err := again.Attachments()
	must(t, err)
	if len(att) != 1 || att[0].CgroupID != inode(t, w.cgroup) || !att[0].Live || len(att[0].Hooks) != hooks {
		t.Errorf("attachments %+v", att)
	}
	must(t, again.Attach(w.cgroup)) // idempotent after adoption, too
	w.Redirect = again
	welcome(t, again, w.Agent)
	w.proxied(t, order{Do: "dial", Dst: origin4})
	must(t, again.Detach(w.cgroup))
	if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Said != "origin" {
		t.Errorf("detached: %+v", got)
	}
}

// TestLoadTakesOffHooksThatItDoesNotKnow: another version had more of them.
func TestLoadTakesOffHooksThatItDoesNotKnow(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, w.Close())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSock, AttachType: ebpf.AttachCgroupInetSockRelease, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	defer prog.Close()
	other, err := link.AttachCgroup(link.CgroupOptions{Path: w.cgroup, Attach: ebpf.AttachCgroupInetSockRelease, Program: prog})
	must(t, err)
	pin := filepath.Join(w.pins, "links", fmt.Sprint(inode(t, w.cgroup)), "sock_release")
	must(t, errors.Join(other.Pin(pin), other.Close()))
	w.Redirect = load(t, bpf.Options{PinDir: w.pins})
	if _, err := os.Stat(pin); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its pin: %v", err)
	}
	dir, err := os.Open(w.cgroup)
	must(t, err)
	defer dir.Close()
	on, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCgroupInetSockRelease})
	if err != nil || len(on.Programs) != 0 {
		t.Errorf("still on the cgroup: %+v, %v", on, err)
	}
	must(t, w.Attach(w.cgroup))
	welcome(t, w.Redirect, w.Agent)
	w.proxied(t, order{Do: "dial", Dst: origin4})
}

// hooks is how many programs a cgroup gets on this kernel.
var hooks = 12 + len(optional)

// optional are the hooks of those that not every kernel has, in the order of attaching.
var optional = func() (names []string) {
	for _, f := range bpf.Probe() {
		if strings.Contains(f.Name, "LSM programs on cgroups") && f.Err == nil {
			names = append(names, "families", "options")
		}
	}
	return names
}()

// What replaces maps that do not fit must not let through what the old ones redirected.
func TestLoadReplacesPinsThatDoNotFit(t *testing.T) {
	kerneltest.Require(t)
	for name, spoil := range map[string]func(t *testing.T, pins string) bpf.Options{
		"another size": func(*testing.T, string) bpf.Options { return bpf.Options{MaxFlows: 16} },
		"another schema": func(t *testing.T, pins string) bpf.Options {
			maps, err := filepath.Glob(filepath.Join(pins, "maps-*"))
			must(t, err)
			must(t, os.Rename(maps[0], filepath.Join(pins, "maps-0")))
			must(t, os.Remove(filepath.Join(pins, "maps-0", "shares"))) // as before schema 3
			return bpf.Options{}
		},
		"a map missing": func(t *testing.T, pins string) bpf.Options {
			found, err := filepath.Glob(filepath.Join(pins, "maps-*", "flows"))
			must(t, err)
			must(t, os.Remove(found[0]))
			return bpf.Options{}
		},
		"a crash while building": func(t *testing.T, pins string) bpf.Options {
			must(t, os.Mkdir(filepath.Join(pins, "new-1"), 0o700))
			return bpf.Options{MaxFlows: 16}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, bpf.Options{})
			must(t, w.Close())
			opts := spoil(t, w.pins)
			opts.PinDir = w.pins
			w.Redirect = load(t, opts)
			if w.Adopted() {
				t.Error("adopted")
			}
			for _, dst := range []string{origin4, origin6, "10.77.0.1:8443"} {
				if got := w.agent.do(order{Do: "dial", Dst: dst}); got.Error != "ECONNREFUSED" {
					t.Errorf("before the daemon has set its ports: %s: %+v", dst, got)
				}
			}
			w.untouched(t)
			entries, err := os.ReadDir(w.pins)
			must(t, err)
			if len(entries) != 2 {
				t.Errorf("pins left over: %v", entries)
			}
			if own, all := w.waiting(t, w.cgroup); own+all != 0 { // it has a share again, before anybody attaches
				t.Errorf("%d flows wait, %d of all", own, all)
			}
			welcome(t, w.Redirect, w.Agent)
			w.proxied(t, order{Do: "dial", Dst: origin4})
		})
	}
}

func TestSecondLoad(t *testing.T) {
	pins := pinDir(t)
	first := load(t, bpf.Options{PinDir: pins})
	if _, err := bpf.Load(bpf.Options{PinDir: pins}); !errors.Is(err, bpf.ErrLocked) {
		t.Errorf("got %v", err)
	}
	must(t, first.SetPorts([]uint16{443})) // and the first is unharmed
	must(t, first.Close())
	must(t, load(t, bpf.Options{PinDir: pins}).Remove())
}

func TestLoadNeedsABPFFileSystem(t *testing.T) {
	kerneltest.Require(t)
	dir := filepath.Join(t.TempDir(), "sluice")
	if _, err := bpf.Load(bpf.Options{PinDir: dir}); !errors.Is(err, bpf.ErrNoBPFFS) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left a directory: %v", err)
	}
	if _, err := bpf.Load(bpf.Options{PinDir: filepath.Join(dir, "deeper")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("below nothing: %v", err)
	}
}

func TestFailOpenPinsNoLinks(t *testing.T) {
	w := newWorld(t, bpf.Options{FailOpen: true})
	w.proxied(t, order{Do: "dial", Dst: origin4})
	must(t, w.Close())
	if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Said != "origin" {
		t.Errorf("closed: %+v", got)
	}
}

// A daemon that was told to fail open takes off what one that failed closed had pinned.
func TestFailOpenAfterFailClosed(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	must(t, w.Close())
	r := load(t, bpf.Options{PinDir: w.pins, FailOpen: true})
	if att, err := r.Attachments(); err != nil || len(att) != 0 {
		t.Errorf("attachments %v, %v", att, err)
	}
}

// ids are what the kernel knows our things by; it does not use one again.
type ids struct {
	programs map[ebpf.ProgramID]bool
	maps     map[ebpf.MapID]bool
	links    map[link.ID]bool
}

// pinned asks each pinned link for its program, and each program for its maps.
func pinned(t testing.TB, pins string) ids {
	t.Helper()
	all := ids{map[ebpf.ProgramID]bool{}, map[ebpf.MapID]bool{}, map[link.ID]bool{}}
	paths, err := filepath.Glob(filepath.Join(pins, "links", "*", "*"))
	must(t, err)
	guards, err := filepath.Glob(filepath.Join(pins, "guard", "*", "*"))
	must(t, err)
	for _, path := range append(paths, guards...) {
		l, err := link.LoadPinnedLink(path, nil)
		must(t, err)
		info, err := l.Info()
		must(t, err)
		must(t, l.Close())
		all.links[info.ID], all.programs[info.Program] = true, true
	}
	for id := range all.programs {
		p, err := ebpf.NewProgramFromID(id)
		must(t, err)
		info, err := p.Info()
		must(t, err)
		must(t, p.Close())
		maps, _ := info.MapIDs()
		for _, m := range maps {
			all.maps[m] = true
		}
	}
	return all
}

// exist counts those of them that the kernel still lists.
func (i ids) exist(t testing.TB) (n int) {
	t.Helper()
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		if i.programs[id] {
			n++
		}
	}
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		if i.maps[id] {
			n++
		}
	}
	for _, id := range kerneltest.Links(t) {
		if i.links[id] {
			n++
		}
	}
	return n
}

// TestRemoveFromWhatIsMountedApart is the packaged unit's view: the pin directory can be written to, what it is in cannot.
func TestRemoveFromWhatIsMountedApart(t *testing.T) {
	kerneltest.Require(t)
	above := kerneltest.BPFFS(t)
	pins := filepath.Join(above, "sluice")
	must(t, os.Mkdir(pins, 0o700))
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this, and its mounts with it
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return err
			}
			for _, m := range []struct {
				from, to string
				flags    uintptr
			}{
				{"", "/", unix.MS_REC | unix.MS_SLAVE},
				{above, above, unix.MS_BIND},
				{pins, pins, unix.MS_BIND},
				{"", above, unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
			} {
				if err := unix.Mount(m.from, m.to, "", m.flags, ""); err != nil {
					return fmt.Errorf("mount %s: %w", m.to, err)
				}
			}
			if err := os.Mkdir(filepath.Join(above, "beside"), 0o700); !errors.Is(err, unix.EROFS) {
				return fmt.Errorf("what it is in can be written to: %w", err)
			}
			for range 2 { // the directory that stayed will do
				r, err := bpf.Load(bpf.Options{PinDir: pins})
				if err != nil {
					return err
				}
				if err := r.Remove(); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	must(t, <-done)
	if entries, err := os.ReadDir(pins); err != nil || len(entries) > 0 {
		t.Errorf("left: %v (%v)", entries, err)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	w := newWorld(t, bpf.Options{})
	gone := kerneltest.Cgroup(t)
	must(t, w.Attach(gone))
	must(t, kerneltest.RemoveCgroup(gone))
	// Twelve maps, the read-only data among them; two programs of the guard, each with a link, and the map that is theirs alone. A filter
	// of clsact's is no pin: who put it there takes it off.
	guards, maps := 0, 12
	if haveTCX() {
		w.guardAll(t)
		guards, maps = 2, 13
	}
	w.proxied(t, order{Do: "dial", Dst: origin4})
	all := pinned(t, w.pins)
	if len(all.programs) != hooks+guards || len(all.links) != 2*hooks+guards || len(all.maps) != maps || all.exist(t) != 3*hooks+2*guards+maps {
		t.Fatalf("this test cannot see what is loaded: %+v, %d exist", all, all.exist(t))
	}
	must(t, w.Remove())
	if _, err := os.Stat(w.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pin directory: %v", err)
	}
	// The kernel frees them after a grace period.
	eventually(t, "nothing of ours is left in the kernel", func() bool { return all.exist(t) == 0 })
	if got := w.agent.do(order{Do: "dial", Dst: origin4}); got.Said != "origin" {
		t.Errorf("after Remove: %+v", got)
	}
	load(t, bpf.Options{PinDir: w.pins}) // and it can begin anew
}
