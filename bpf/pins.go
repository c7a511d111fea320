package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// mapDir names the schema, so that a version that shares maps differently never adopts these.
func (r *Redirect) mapDir() string {
	return filepath.Join(r.opts.PinDir, fmt.Sprintf("maps-%d", schema))
}

// pinnedMaps are those that must outlive the daemon; the others start empty.
func pinnedMaps(m *redirectMaps) map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		redirectMapFlows: m.Flows, redirectMapTally: m.Tally, redirectMapShares: m.Shares, redirectMapListeners: m.Listeners, redirectMapPorts: m.Ports,
		redirectMapOrigDsts: m.OrigDsts, redirectMapCounters: m.Counters,
		redirectMapGuarded: m.Guarded, redirectMapLevels: m.Levels, redirectMapKept: m.Kept,
	}
}

func (r *Redirect) loadObjects(spec *ebpf.CollectionSpec) error {
	replace := r.openPinned(spec)
	defer func() {
		for _, m := range replace {
			_ = m.Close()
		}
	}()
	if err := spec.LoadAndAssign(&r.objs, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	r.adopted = replace != nil
	if r.adopted {
		return nil
	}
	return r.pinMaps()
}

// openPinned returns the maps of an earlier life, or nil unless every one fits:
// half of them adopted would be programs and daemon talking past each other.
func (r *Redirect) openPinned(spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	maps := make(map[string]*ebpf.Map)
	for name := range pinnedMaps(&redirectMaps{}) {
		m, err := ebpf.LoadPinnedMap(filepath.Join(r.mapDir(), name), nil)
		if err == nil {
			maps[name] = m
			err = spec.Maps[name].Compatible(m)
		}
		if err != nil {
			for _, m := range maps {
				_ = m.Close()
			}
			return nil
		}
	}
	return maps
}

// pinMaps builds the directory aside and renames it into place, so that a crash
// in between leaves either the old maps or the new ones. The old ones' bound ports
// are kept: until the daemon sets its own, what was redirected is refused.
func (r *Redirect) pinMaps() (err error) {
	aside, err := os.MkdirTemp(r.opts.PinDir, "new-")
	if err != nil {
		return fmt.Errorf("make a pin directory: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(aside)
		}
	}()
	for name, m := range pinnedMaps(&r.objs.redirectMaps) {
		if err := m.Pin(filepath.Join(aside, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	if err := r.keepPorts(); err != nil {
		return err
	}
	if err := r.keepGuarded(); err != nil {
		return err
	}
	if err := os.RemoveAll(r.mapDir()); err != nil {
		return fmt.Errorf("remove pins that do not fit: %w", err)
	}
	if err := os.Rename(aside, r.mapDir()); err != nil {
		return fmt.Errorf("put pins in place: %w", err)
	}
	return r.removeOldMaps()
}

// oldMaps are directories of other schemas, and what a crash left half built.
func (r *Redirect) oldMaps() ([]string, error) {
	entries, err := os.ReadDir(r.opts.PinDir)
	if err != nil {
		return nil, fmt.Errorf("read pins: %w", err)
	}
	var dirs []string
	for _, e := range entries {
		old, _ := filepath.Match("maps-*", e.Name())
		half, _ := filepath.Match("new-*", e.Name())
		if dir := filepath.Join(r.opts.PinDir, e.Name()); (old || half) && dir != r.mapDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

func (r *Redirect) removeOldMaps() error {
	dirs, err := r.oldMaps()
	for _, dir := range dirs {
		if gone := os.RemoveAll(dir); gone != nil {
			err = errors.Join(err, fmt.Errorf("remove old pins: %w", gone))
		}
	}
	return err
}

// keepPorts copies the bound ports of every earlier life into the new map. The pinned
// links still run the old programs here, so no connect sees a port unbound.
func (r *Redirect) keepPorts() error {
	dirs, err := r.oldMaps()
	if err != nil {
		return err
	}
	for _, dir := range append(dirs, r.mapDir()) {
		old, err := ebpf.LoadPinnedMap(filepath.Join(dir, redirectMapPorts), &ebpf.LoadPinOptions{ReadOnly: true})
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open the old ports: %w", err)
		}
		err = copyMap(r.objs.Ports, old)
		_ = old.Close()
		if err != nil {
			return fmt.Errorf("keep the bound ports: %w", err)
		}
	}
	return nil
}
