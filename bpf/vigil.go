package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// vigil refuses bound ports where a target's cgroup is made again and nobody has attached it.
type vigil struct {
	objs  vigilLoaded
	above map[uint64]*attachment // by the id of the cgroup that the links are on
}

// vigilLoaded is without the variables: their memory would keep a map in the kernel.
type vigilLoaded struct {
	vigilPrograms
	vigilMaps
}

// SetVigils makes these, and no others, the cgroups that may not reach bound ports while they
// carry no hooks: a cgroup that is removed and made again under its path is refused until
// [Redirect.Attach], also when this process is gone by then. There needs to be no such cgroup now, only its parent;
// a path without one is left out. What somebody else has detached is put back. With FailOpen nothing is refused.
//
// The error matches [ebpf.ErrNotSupported] where the kernel has no type information (CONFIG_DEBUG_INFO_BTF).
func (r *Redirect) SetVigils(cgroupPaths []string) error {
	if r.opts.FailOpen {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vigil == nil {
		if len(cgroupPaths) == 0 {
			return r.dropVigils()
		}
		if err := r.loadVigil(); err != nil {
			return err
		}
	}
	places := make(map[vigilPlace]bool)
	parents := make(map[uint64]string)
	for _, path := range cgroupPaths {
		place, parent, err := placeOf(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.vigil.objs.Places.Put(place, uint8(1)); err != nil {
			return fmt.Errorf("keep vigil over %s: %w", path, err)
		}
		places[place], parents[place.Parent] = true, parent
	}
	if err := r.withdraw(places); err != nil {
		return err
	}
	return r.keepVigil(parents)
}

// Vigilant tells whether anything is kept vigil over.
func (r *Redirect) Vigilant() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.vigil != nil && len(r.vigil.above) > 0
}

// unattached is how often a connect was refused because its cgroup carried no hooks yet.
func (r *Redirect) unattached() (refused uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vigil == nil {
		return 0, nil
	}
	var perCPU []uint64
	if err := r.vigil.objs.Refused.Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read the vigil's counter: %w", err)
	}
	for _, n := range perCPU {
		refused += n
	}
	return refused, nil
}

func (r *Redirect) vigilRoot() string { return filepath.Join(r.opts.PinDir, "vigil") }

// loadVigil loads the programs, which share the bound ports with the redirect's.
func (r *Redirect) loadVigil() error {
	spec, err := loadVigil()
	if err != nil {
		return fmt.Errorf("read the compiled vigil: %w", err)
	}
	if r.haveSetRetval {
		if err := spec.Variables[vigilVarHaveSetRetval].Set(uint8(1)); err != nil {
			return fmt.Errorf("set %s: %w", vigilVarHaveSetRetval, err)
		}
	}
	v := &vigil{above: make(map[uint64]*attachment)}
	if err := spec.LoadAndAssign(&v.objs, &ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{vigilMapPorts: r.objs.Ports},
	}); err != nil {
		return fmt.Errorf("load the vigil: %w", err)
	}
	r.vigil = v
	return nil
}

// placeOf is where a cgroup is made, and the path of its parent.
func placeOf(path string) (place vigilPlace, parent string, err error) {
	parent = filepath.Dir(path)
	name := filepath.Base(path)
	if len(name) >= len(place.Name) {
		return place, "", unix.ENAMETOOLONG
	}
	dir, err := os.Open(parent)
	if err != nil {
		return place, "", fmt.Errorf("open cgroup: %w", err)
	}
	defer func() { _ = dir.Close() }()
	if place.Parent, err = cgroupID(dir); err != nil {
		return place, "", err
	}
	for i := range len(name) {
		place.Name[i] = int8(name[i])
	}
	return place, parent, nil
}

// withdraw deletes the places that are not wanted any more.
func (r *Redirect) withdraw(wanted map[vigilPlace]bool) error {
	places, err := readMap[vigilPlace, uint8](r.vigil.objs.Places, "the vigil's places")
	if err != nil {
		return err
	}
	for place := range places {
		if wanted[place] {
			continue
		}
		if err := r.vigil.objs.Places.Delete(place); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("end a vigil: %w", err)
		}
	}
	return nil
}

// keepVigil has links on these cgroups and on no others. What an earlier life pinned goes
// when this life's are there, so that nothing is let through in between.
func (r *Redirect) keepVigil(parents map[uint64]string) error {
	for id, path := range parents {
		if whole, err := r.vigil.whole(id); err != nil {
			return err
		} else if whole {
			continue
		} else if a := r.vigil.above[id]; a != nil {
			// Somebody else has taken some off.
			delete(r.vigil.above, id)
			if err := a.detach(); err != nil {
				return err
			}
		}
		a := new(attachment)
		var err error
		if a.dir, err = r.vigilDir(id); err == nil {
			err = r.attachVigil(a, path)
		}
		if err != nil {
			return errors.Join(err, a.detach())
		}
		r.vigil.above[id] = a
	}
	for id, a := range r.vigil.above {
		if parents[id] == "" {
			delete(r.vigil.above, id)
			if err := a.detach(); err != nil {
				return err
			}
		}
	}
	return r.dropVigils()
}

// whole tells whether a cgroup has its vigil, by the kernel's word.
func (v *vigil) whole(id uint64) (bool, error) {
	a := v.above[id]
	if a == nil {
		return false, nil
	}
	for i, l := range a.links {
		on, err := alive(l, id, nil)
		if err != nil {
			return false, fmt.Errorf("vigil %s on cgroup %d: %w", a.names[i], id, err)
		}
		if !on {
			return false, nil
		}
	}
	return true, nil
}

// vigilDir makes a directory for a cgroup's pins, beside that of an earlier life.
func (r *Redirect) vigilDir(id uint64) (string, error) {
	if err := os.MkdirAll(r.vigilRoot(), 0o700); err != nil {
		return "", fmt.Errorf("make the pin directory: %w", err)
	}
	for n := 0; ; n++ {
		dir := filepath.Join(r.vigilRoot(), strconv.FormatUint(id, 10)+"-"+strconv.Itoa(n))
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("make the pin directory: %w", err)
		}
	}
}

func (r *Redirect) attachVigil(a *attachment, path string) error {
	p := &r.vigil.objs.vigilPrograms
	for _, h := range []hook{
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, p.VigilSendmsg4},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, p.VigilSendmsg6},
		{"connect4", ebpf.AttachCGroupInet4Connect, p.VigilConnect4},
		{"connect6", ebpf.AttachCGroupInet6Connect, p.VigilConnect6},
	} {
		l, err := r.attachHook(a, path, h)
		if err != nil {
			return err
		}
		a.links, a.names = append(a.links, l), append(a.names, h.name)
	}
	return nil
}

// dropVigils takes off what is pinned and is not this life's.
func (r *Redirect) dropVigils() error {
	entries, err := os.ReadDir(r.vigilRoot())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the vigil's pins: %w", err)
	}
	kept := make(map[string]bool)
	if r.vigil != nil {
		for _, a := range r.vigil.above {
			kept[filepath.Base(a.dir)] = true
		}
	}
	for _, e := range entries {
		if kept[e.Name()] {
			continue
		}
		old := &attachment{dir: filepath.Join(r.vigilRoot(), e.Name())}
		pins, err := os.ReadDir(old.dir)
		if err != nil {
			return fmt.Errorf("read the vigil's pins: %w", err)
		}
		for _, pin := range pins {
			l, err := link.LoadPinnedLink(filepath.Join(old.dir, pin.Name()), nil)
			if err != nil {
				continue // not a link: it goes with the directory
			}
			old.links, old.names = append(old.links, l), append(old.names, pin.Name())
		}
		if err := old.detach(); err != nil {
			return err
		}
	}
	if len(kept) == 0 {
		if err := os.Remove(r.vigilRoot()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the vigil's pins: %w", err)
		}
	}
	return nil
}

// closeVigil gives up this process's handles; what is pinned stays in force.
func (r *Redirect) closeVigil() error {
	if r.vigil == nil {
		return nil
	}
	var errs []error
	for id, a := range r.vigil.above {
		errs = append(errs, a.close())
		delete(r.vigil.above, id)
	}
	errs = append(errs, r.vigil.objs.vigilPrograms.Close(), r.vigil.objs.vigilMaps.Close())
	r.vigil = nil
	return errors.Join(errs...)
}
