package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// queryEffective is BPF_F_QUERY_EFFECTIVE: what runs for a cgroup's processes, the programs of the
// cgroups above included, instead of what is attached to the cgroup itself (Linux 4.15).
const queryEffective = 1 << 0

// wanted is a program that has to run for a cgroup's processes.
type wanted struct {
	name   string
	attach ebpf.AttachType
	prog   ebpf.ProgramID
}

// Missing asks the kernel which hooks are not in force on the cgroup v2 directory that is there now, in the order of
// attaching: those whose program does not run for the cgroup's processes, whether its link was detached, given another
// program, or is on a cgroup that had this path before. A pin proves nothing, and is not looked at. Empty: all
// are in force. [Redirect.Attach] puts right what is missing.
func (r *Redirect) Missing(cgroupPath string) ([]string, error) {
	dir, err := os.Open(cgroupPath)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	defer func() { _ = dir.Close() }()
	if _, err := cgroupID(dir); err != nil {
		return nil, err
	}
	all, err := r.wanted()
	if err != nil {
		return nil, err
	}
	return notEffective(dir, all)
}

// wanted is what has to run for each attached cgroup. It is asked for once: programs keep their ids, and every target is
// looked at again and again.
func (r *Redirect) wanted() ([]wanted, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids != nil {
		return r.ids, nil
	}
	var all []wanted
	for _, h := range r.hooks() {
		info, err := h.prog.Info()
		if err != nil {
			return nil, fmt.Errorf("ask for program %s: %w", h.name, err)
		}
		id, ok := info.ID()
		if !ok {
			return nil, fmt.Errorf("ask for program %s: the kernel does not tell its id", h.name)
		}
		all = append(all, wanted{h.name, h.attach, id})
	}
	r.ids = all
	return all, nil
}

// notEffective is which of the programs do not run for a cgroup's processes.
func notEffective(dir *os.File, all []wanted) ([]string, error) {
	var names []string
	for _, w := range all {
		res, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: w.attach, QueryFlags: queryEffective})
		if err != nil {
			return nil, fmt.Errorf("ask for what is in force on %s: %w", dir.Name(), err)
		}
		if !slices.ContainsFunc(res.Programs, func(p link.AttachedProgram) bool { return p.ID == w.prog }) {
			names = append(names, w.name)
		}
	}
	return names, nil
}

// alive tells whether a link of ours still does what it is for: it is on that cgroup and has that program.
func alive(l link.Link, cgroup uint64, prog *ebpf.Program) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("ask for the link: %w", err)
	}
	// The kernel empties a link that was detached, or whose cgroup was removed.
	if cg := info.Cgroup(); cg == nil || cg.CgroupId != cgroup {
		return false, nil
	}
	if prog == nil {
		return true, nil
	}
	own, err := prog.Info()
	if err != nil {
		return false, fmt.Errorf("ask for the program: %w", err)
	}
	id, _ := own.ID()
	return info.Program == id, nil
}

// Pinned are the hooks that are pinned below a pin directory, by the kernel's word, whether a daemon runs or
// not. It changes nothing, and takes no lock. No pin directory: none.
func Pinned(pinDir string) ([]Attachment, error) {
	root := filepath.Join(pinDir, "links")
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pinned links: %w", err)
	}
	var all []Attachment
	for _, e := range entries {
		id, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			continue // not ours
		}
		pins, err := os.ReadDir(filepath.Join(root, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // detached meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read pinned links: %w", err)
		}
		a := Attachment{CgroupID: id}
		for _, pin := range pins {
			l, err := link.LoadPinnedLink(filepath.Join(root, e.Name(), pin.Name()), nil)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("open the pinned link %s of cgroup %d: %w", pin.Name(), id, err)
			}
			on, err := alive(l, id, nil)
			if err := errors.Join(err, l.Close()); err != nil {
				return nil, fmt.Errorf("pinned link %s of cgroup %d: %w", pin.Name(), id, err)
			}
			if on {
				a.Hooks, a.Live = append(a.Hooks, pin.Name()), true
			}
		}
		all = append(all, a)
	}
	slices.SortFunc(all, byCgroup)
	return all, nil
}
