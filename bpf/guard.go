package bpf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// guard is the programs for links, and where they are.
type guard struct {
	guardPrograms
	links map[uint64][]*guardLink // by namespace cookie
}

// guardLink is one program on one link; pin is "" when it is not pinned.
type guardLink struct {
	link.Link
	pin string
}

// guardMaps are shared with the redirect: what is kept, guarded and bound is the same for both.
func (r *Redirect) guardMaps() map[string]*ebpf.Map {
	m := &r.objs.redirectMaps
	return map[string]*ebpf.Map{
		guardMapPorts: m.Ports, guardMapGuarded: m.Guarded, guardMapLevels: m.Levels, guardMapKept: m.Kept, guardMapCounters: m.Counters,
	}
}

// loadGuard loads the programs for links, which nothing has to be attached for.
func (r *Redirect) loadGuard() error {
	spec, err := loadGuard()
	if err != nil {
		return fmt.Errorf("read the compiled guard: %w", err)
	}
	r.guard.links = make(map[uint64][]*guardLink)
	if err := spec.LoadAndAssign(&r.guard.guardPrograms, &ebpf.CollectionOptions{MapReplacements: r.guardMaps()}); err != nil {
		return fmt.Errorf("load the guard: %w", err)
	}
	return nil
}

// program is the one for a link of an ARPHRD type (include/uapi/linux/if_arp.h), and what its pins are called.
func (g *guard) program(arphrd uint16) (prog *ebpf.Program, kind string) {
	switch arphrd {
	case unix.ARPHRD_ETHER:
		return g.GuardFrame, "frame"
	case unix.ARPHRD_LOOPBACK:
		return g.GuardLoopback, "loopback"
	default:
		return g.GuardPacket, "packet"
	}
}

// GuardProgram is the guard for a link of an ARPHRD type, for those who attach it in
// another way than [Redirect.GuardLink]. It is closed with the Redirect.
func (r *Redirect) GuardProgram(arphrd uint16) *ebpf.Program {
	prog, _ := r.guard.program(arphrd)
	return prog
}

// GuardLink puts the guard before all other programs on what leaves by a link of the
// calling thread's network namespace, whose cookie is netns. It does nothing if it is there
// already. What is pinned outlives this process. The error matches [ebpf.ErrNotSupported] where
// the kernel has no tcx (before Linux 6.6), and [unix.E2BIG] where it is on most links of the namespace
// already; 0 is any number.
func (r *Redirect) GuardLink(netns uint64, index int, arphrd uint16, most int) (err error) {
	prog, kind := r.guard.program(arphrd)
	r.mu.Lock()
	defer r.mu.Unlock()
	there, err := guards(index, prog)
	if err != nil || there {
		return err
	}
	if most > 0 && len(r.guard.links[netns]) >= most {
		return fmt.Errorf("attach to link %d: %w", index, unix.E2BIG)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: ebpf.AttachTCXEgress, Anchor: link.Head()})
	if err != nil {
		return fmt.Errorf("attach to link %d: %w", index, err)
	}
	g := &guardLink{Link: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if !r.opts.FailOpen {
		info, err := l.Info()
		if err != nil {
			return fmt.Errorf("ask for the guard of link %d: %w", index, err)
		}
		dir := r.guardDir(netns)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the pin directory: %w", err)
		}
		g.pin = filepath.Join(dir, strconv.FormatUint(uint64(info.ID), 10)+"-"+kind)
		if err := l.Pin(g.pin); err != nil {
			return fmt.Errorf("pin the guard of link %d: %w", index, err)
		}
	}
	r.guard.links[netns] = append(r.guard.links[netns], g)
	return nil
}

// guards asks the kernel whether a program is on what leaves by a link.
func guards(index int, prog *ebpf.Program) (bool, error) {
	info, err := prog.Info()
	if err != nil {
		return false, fmt.Errorf("ask for the guard: %w", err)
	}
	id, _ := info.ID()
	on, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXEgress})
	if errors.Is(err, unix.EINVAL) { // it does not know the attach type
		err = notSupported(err)
	}
	if err != nil {
		return false, fmt.Errorf("ask what is on link %d: %w", index, err)
	}
	return slices.ContainsFunc(on.Programs, func(p link.AttachedProgram) bool { return p.ID == id }), nil
}

// Guarded asks the kernel how many links of a namespace carry the guard of [Redirect.GuardLink].
func (r *Redirect) Guarded(netns uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(r.guard.links[netns]), func(g *guardLink) bool { return !g.live() }))
}

// live tells whether the link is there still.
func (g *guardLink) live() bool {
	info, err := g.Info()
	if err != nil {
		return false
	}
	on := info.TCX()
	return on != nil && on.Ifindex != 0
}

// detach takes the guard off and its pin away.
func (g *guardLink) detach() error {
	var errs []error
	if err := g.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		errs = append(errs, fmt.Errorf("detach the guard: %w", err))
	}
	if g.pin != "" {
		if err := os.Remove(g.pin); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin the guard: %w", err))
		}
	}
	return errors.Join(append(errs, g.Close())...)
}

// SweepGuard lets go of the links of a namespace that are gone.
func (r *Redirect) SweepGuard(netns uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.detachGuards(netns, func(g *guardLink) bool { return !g.live() })
}

// Unguard takes the guard off every link of a namespace, also of those that have left it.
func (r *Redirect) Unguard(netns uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.detachGuards(netns, func(*guardLink) bool { return true })
}

func (r *Redirect) detachGuards(netns uint64, gone func(*guardLink) bool) error {
	var errs []error
	r.guard.links[netns] = slices.DeleteFunc(r.guard.links[netns], func(g *guardLink) bool {
		if !gone(g) {
			return false
		}
		errs = append(errs, g.detach())
		return true
	})
	if len(r.guard.links[netns]) == 0 {
		delete(r.guard.links, netns)
		if err := os.RemoveAll(r.guardDir(netns)); err != nil {
			errs = append(errs, fmt.Errorf("remove the guard's pins: %w", err))
		}
	}
	return errors.Join(errs...)
}

// GuardedNamespaces are the cookies of those with guarded links, an earlier life's included.
func (r *Redirect) GuardedNamespaces() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []uint64
	for netns := range r.guard.links {
		all = append(all, netns)
	}
	return all
}

func (r *Redirect) guardRoot() string { return filepath.Join(r.opts.PinDir, "guard") }

func (r *Redirect) guardDir(netns uint64) string {
	return filepath.Join(r.guardRoot(), strconv.FormatUint(netns, 10))
}

// adoptGuards takes over what an earlier life pinned and moves it to this life's programs.
func (r *Redirect) adoptGuards() error {
	pins, err := filepath.Glob(filepath.Join(r.guardRoot(), "*", "*-*"))
	if err != nil {
		return fmt.Errorf("read the guard's pins: %w", err)
	}
	programs := make(map[string]*ebpf.Program)
	for _, arphrd := range []uint16{unix.ARPHRD_ETHER, unix.ARPHRD_LOOPBACK, unix.ARPHRD_NONE} {
		prog, kind := r.guard.program(arphrd)
		programs[kind] = prog
	}
	for _, pin := range pins {
		netns, err := strconv.ParseUint(filepath.Base(filepath.Dir(pin)), 10, 64)
		l, loadErr := link.LoadPinnedLink(pin, nil)
		if err != nil || loadErr != nil {
			continue // not ours
		}
		g := &guardLink{Link: l, pin: pin}
		_, kind, _ := strings.Cut(filepath.Base(pin), "-")
		prog := programs[kind]
		if prog == nil || r.opts.FailOpen || !g.live() {
			if err := g.detach(); err != nil {
				return err
			}
			continue
		}
		if err := l.Update(prog); err != nil && !errors.Is(err, unix.ENOLINK) {
			return errors.Join(fmt.Errorf("move the guard %s to the new program: %w", pin, err), l.Close())
		}
		r.guard.links[netns] = append(r.guard.links[netns], g)
	}
	return nil
}

// closeGuard gives up this process's handles; what is pinned stays in force.
func (r *Redirect) closeGuard() error {
	var errs []error
	for netns, links := range r.guard.links {
		for _, g := range links {
			errs = append(errs, g.Close())
		}
		delete(r.guard.links, netns)
	}
	return errors.Join(append(errs, r.guard.Close())...)
}

// watchOver makes a cgroup one whose packets the guard judges, and whose flows are counted apart from others'.
func (r *Redirect) watchOver(id uint64, path string) error {
	level, err := levelOf(path)
	if err != nil {
		return err
	}
	if err := r.objs.Guarded.Put(id, level); err != nil {
		return fmt.Errorf("guard cgroup %s: %w", path, err)
	}
	if err := r.giveShare(id); err != nil {
		return err
	}
	return r.setLevels()
}

// stopWatching lets the guard pass what belongs to a cgroup.
func (r *Redirect) stopWatching(id uint64) error {
	if err := r.endShare(id); err != nil {
		return err
	}
	if err := r.objs.Guarded.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("end the guard of cgroup %d: %w", id, err)
	}
	return r.setLevels()
}

// setLevels tells the programs at which levels to look for targets' cgroups, the deepest first: one that is below another is what a
// process is in.
func (r *Redirect) setLevels() error {
	guarded, err := r.readGuarded()
	if err != nil {
		return err
	}
	var in []uint32
	for _, level := range guarded {
		if !slices.Contains(in, level) {
			in = append(in, level)
		}
	}
	var set guardLevelSet
	if len(in) > len(set.Level) {
		return fmt.Errorf("cgroups at more than %d different depths cannot be guarded", len(set.Level))
	}
	slices.Sort(in)
	slices.Reverse(in)
	copy(set.Level[:], in)
	if err := r.objs.Levels.Put(uint32(0), set); err != nil {
		return fmt.Errorf("set the guard's levels: %w", err)
	}
	return nil
}

// keepGuarded copies from every earlier life which cgroups are guarded and which connections kept.
// The pinned guard still runs the old programs here, so nothing is let through in between.
func (r *Redirect) keepGuarded() error {
	dirs, err := r.oldMaps()
	if err != nil {
		return err
	}
	for _, dir := range append(dirs, r.mapDir()) {
		for name, into := range map[string]*ebpf.Map{redirectMapGuarded: r.objs.Guarded, redirectMapKept: r.objs.Kept} {
			old, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), &ebpf.LoadPinOptions{ReadOnly: true})
			if errors.Is(err, os.ErrNotExist) {
				continue // a version without a guard
			}
			if err != nil {
				return fmt.Errorf("open the old %s: %w", name, err)
			}
			if old.KeySize() == into.KeySize() && old.ValueSize() == into.ValueSize() {
				err = copyMap(into, old)
			}
			_ = old.Close()
			if err != nil {
				return fmt.Errorf("keep the old %s: %w", name, err)
			}
		}
	}
	return errors.Join(r.giveFirstShares(), r.setLevels())
}

// pruneGuarded ends the guard of cgroups that carry no hooks: an earlier life ended while it attached them.
func (r *Redirect) pruneGuarded() error {
	guarded, err := r.readGuarded()
	if err != nil {
		return err
	}
	for id := range guarded {
		if r.links[id] != nil {
			continue
		}
		if err := r.stopWatching(id); err != nil {
			return err
		}
	}
	return nil
}

func (r *Redirect) readGuarded() (map[uint64]uint32, error) {
	return readMap[uint64, uint32](r.objs.Guarded, "the guarded cgroups")
}

// rootCgroup is the id of the root of the hierarchy, in every kernel that has ids (fs/kernfs/dir.c).
const rootCgroup = 1

// levelOf is how far a cgroup is below the root.
func levelOf(path string) (uint32, error) {
	for level := uint32(0); ; level++ {
		dir, err := os.Open(path)
		if err != nil {
			return 0, fmt.Errorf("open cgroup: %w", err)
		}
		id, err := cgroupID(dir)
		_ = dir.Close()
		if err != nil {
			return 0, fmt.Errorf("how deep the cgroup is: %w", err)
		}
		if id == rootCgroup {
			return level, nil
		}
		path = filepath.Dir(path)
	}
}

// Keep lets the guard pass what the socket with this cookie (SO_COOKIE) sends: a connection
// that is older than the attach, and is to be kept.
func (r *Redirect) Keep(cookie uint64) error {
	if err := r.objs.Kept.Put(cookie, uint8(1)); err != nil {
		return fmt.Errorf("keep a connection: %w", err)
	}
	return nil
}

// Unkeep ends what [Redirect.Keep] began. It is no error if it did not.
func (r *Redirect) Unkeep(cookie uint64) error {
	if err := r.objs.Kept.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("keep a connection no longer: %w", err)
	}
	return nil
}

// Kept are the cookies of all sockets that are kept.
func (r *Redirect) Kept() ([]uint64, error) {
	kept, err := readMap[uint64, uint8](r.objs.Kept, "the kept connections")
	return slices.Collect(maps.Keys(kept)), err
}
