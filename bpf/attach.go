package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Attachment is a cgroup that carries hooks, as the kernel tells it.
type Attachment struct {
	CgroupID uint64
	Hooks    []string // in the order they were attached
	Live     bool     // false: no hook is left on it; usually the cgroup is gone and only the pins are left
}

// hook is one program and the place it goes to.
type hook struct {
	name   string
	attach ebpf.AttachType
	prog   *ebpf.Program
}

// hooks in the order they are attached: what refuses and hands over comes first,
// the redirect last, so that no connect is redirected before it can be answered.
func (r *Redirect) hooks() []hook {
	p := &r.objs.redirectPrograms
	all := []hook{
		{"egress", ebpf.AttachCGroupInetEgress, p.SluiceEgress},
		{"setsockopt", ebpf.AttachCGroupSetsockopt, p.SluiceSetsockopt},
		{"sock_create", ebpf.AttachCGroupInetSockCreate, p.SluiceSockCreate},
		{"bind4", ebpf.AttachCGroupInet4Bind, p.SluiceBind4},
		{"bind6", ebpf.AttachCGroupInet6Bind, p.SluiceBind6},
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, p.SluiceSendmsg4},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, p.SluiceSendmsg6},
		{"sockops", ebpf.AttachCGroupSockOps, p.SluiceSockops},
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, p.SluiceGetpeername4},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, p.SluiceGetpeername6},
		{"connect4", ebpf.AttachCGroupInet4Connect, p.SluiceConnect4},
		{"connect6", ebpf.AttachCGroupInet6Connect, p.SluiceConnect6},
	}
	if r.families != nil {
		all = slices.Insert(all, 0, hook{"families", ebpf.AttachLSMCgroup, r.families}, hook{"options", ebpf.AttachLSMCgroup, r.options})
	}
	return all
}

// attachment holds the links of one cgroup, in the order of attaching.
type attachment struct {
	dir   string // pins; "" when they are not pinned
	names []string
	links []link.Link
}

func (a *attachment) close() error {
	var errs []error
	for _, l := range a.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// detach takes the hooks off, the redirect first.
func (a *attachment) detach() error {
	var errs []error
	for i, l := range slices.Backward(a.links) {
		// Now, and not when the last holder is gone: a pin's hold on the link lasts a grace
		// period longer than the pin. Of a cgroup that is gone it is detached already.
		if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) && !errors.Is(err, link.ErrNotSupported) {
			errs = append(errs, fmt.Errorf("detach %s: %w", a.names[i], err))
		}
		if a.dir != "" {
			if err := os.Remove(filepath.Join(a.dir, a.names[i])); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("unpin %s: %w", a.names[i], err))
			}
		}
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the link of %s: %w", a.names[i], err))
		}
	}
	if a.dir != "" {
		// What another version pinned there goes too.
		if err := os.RemoveAll(a.dir); err != nil {
			errs = append(errs, fmt.Errorf("remove pins: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (r *Redirect) linkRoot() string { return filepath.Join(r.opts.PinDir, "links") }

func (r *Redirect) linkDir(id uint64) string {
	return filepath.Join(r.linkRoot(), strconv.FormatUint(id, 10))
}

// Attach puts every hook on a cgroup v2 directory. It does nothing if they are in force
// already; it adds those that an adopted set lacks, and puts back what somebody else has taken
// off or unpinned. Of a new set it leaves nothing behind if one hook cannot be attached.
func (r *Redirect) Attach(cgroupPath string) error {
	dir, err := os.Open(cgroupPath)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer func() { _ = dir.Close() }()
	id, err := cgroupID(dir)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.watchOver(id, cgroupPath); err != nil {
		return err
	}
	if a, ok := r.links[id]; ok {
		if err := r.weed(a, id); err != nil {
			return err
		}
		return r.complete(a, cgroupPath)
	}
	a := &attachment{}
	if !r.opts.FailOpen {
		a.dir = r.linkDir(id)
		if err := os.MkdirAll(a.dir, 0o700); err != nil {
			return errors.Join(fmt.Errorf("make the pin directory: %w", err), r.stopWatching(id))
		}
	}
	if err := r.complete(a, cgroupPath); err != nil {
		return errors.Join(err, a.detach(), r.stopWatching(id))
	}
	r.links[id] = a
	return nil
}

// weed drops the links that somebody else has detached, so that complete makes them anew, gives those back
// their program that were given another one, and pins what was unpinned.
func (r *Redirect) weed(a *attachment, id uint64) error {
	for _, h := range r.hooks() {
		i := slices.Index(a.names, h.name)
		if i < 0 {
			continue
		}
		l := a.links[i]
		on, err := alive(l, id, nil)
		if err != nil {
			return fmt.Errorf("%s of cgroup %d: %w", h.name, id, err)
		}
		if !on {
			a.links, a.names = slices.Delete(a.links, i, i+1), slices.Delete(a.names, i, i+1)
			if err := errors.Join(l.Close(), a.unpin(h.name)); err != nil {
				return fmt.Errorf("give up the detached link of %s: %w", h.name, err)
			}
			continue
		}
		if own, err := alive(l, id, h.prog); err != nil || !own {
			if err := errors.Join(err, l.Update(h.prog)); err != nil {
				return fmt.Errorf("give %s of cgroup %d its program back: %w", h.name, id, err)
			}
		}
		if err := a.repin(l, h.name); err != nil {
			return err
		}
	}
	return nil
}

func (a *attachment) unpin(name string) error {
	if a.dir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(a.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin %s: %w", name, err)
	}
	return nil
}

// repin pins a link whose pin somebody removed: without it the hook would end with this process.
func (a *attachment) repin(l link.Link, name string) error {
	if a.dir == "" {
		return nil
	}
	path := filepath.Join(a.dir, name)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("ask for the link of %s: %w", name, err)
	}
	// The library takes a link that was pinned for one to be moved: a new handle has no such past.
	again, err := link.NewFromID(info.ID)
	if err != nil {
		return fmt.Errorf("open the link of %s: %w", name, err)
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return errors.Join(fmt.Errorf("make the pin directory: %w", err), again.Close())
	}
	if err := errors.Join(again.Pin(path), again.Close()); err != nil {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	return nil
}

// complete attaches the hooks that are not there, and brings all into their order.
func (r *Redirect) complete(a *attachment, cgroupPath string) error {
	for i, h := range r.hooks() {
		if i < len(a.names) && a.names[i] == h.name {
			continue
		}
		l, err := r.attachHook(a, cgroupPath, h)
		if err != nil {
			return err
		}
		a.links = slices.Insert(a.links, i, l)
		a.names = slices.Insert(a.names, i, h.name)
	}
	return nil
}

func (r *Redirect) attachHook(a *attachment, cgroupPath string, h hook) (link.Link, error) {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroupPath, Attach: h.attach, Program: h.prog})
	if errors.Is(err, unix.EPERM) {
		if other := findExclusive(h.name, cgroupPath, h.attach); other != nil {
			return nil, other
		}
	}
	if err != nil {
		return nil, fmt.Errorf("attach %s to %s: %w", h.name, cgroupPath, err)
	}
	if a.dir == "" {
		return l, nil
	}
	if err := l.Pin(filepath.Join(a.dir, h.name)); err != nil {
		return nil, errors.Join(fmt.Errorf("pin %s: %w", h.name, err), l.Close())
	}
	return l, nil
}

// Detach takes the hooks off a cgroup. Error: [ErrNotAttached].
func (r *Redirect) Detach(cgroupPath string) error {
	dir, err := os.Open(cgroupPath)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer func() { _ = dir.Close() }()
	id, err := cgroupID(dir)
	if err != nil {
		return err
	}
	return r.DetachID(id)
}

// DetachID is [Redirect.Detach] for a cgroup that may be gone. Error: [ErrNotAttached].
func (r *Redirect) DetachID(id uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.links[id]
	if !ok {
		return fmt.Errorf("cgroup %d: %w", id, ErrNotAttached)
	}
	delete(r.links, id)
	return errors.Join(a.detach(), r.stopWatching(id))
}

// Attachments asks the kernel which cgroups carry which hooks.
func (r *Redirect) Attachments() ([]Attachment, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Attachment
	for id, a := range r.links {
		att := Attachment{CgroupID: id}
		for i, l := range a.links {
			on, err := alive(l, id, nil)
			if err != nil {
				return nil, fmt.Errorf("%s of cgroup %d: %w", a.names[i], id, err)
			}
			if on {
				att.Hooks, att.Live = append(att.Hooks, a.names[i]), true
			}
		}
		all = append(all, att)
	}
	slices.SortFunc(all, byCgroup)
	return all, nil
}

func byCgroup(a, b Attachment) int { return cmp.Compare(a.CgroupID, b.CgroupID) }

// adoptLinks takes over what an earlier life pinned and moves it to this life's
// programs. A set that lacks hooks, after a crash while attaching or from a version
// that had fewer, stays in force as it is: [Redirect.Attach] completes it.
func (r *Redirect) adoptLinks() error {
	entries, err := os.ReadDir(r.linkRoot())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pinned links: %w", err)
	}
	for _, e := range entries {
		id, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			continue // not ours
		}
		a := &attachment{dir: r.linkDir(id)}
		for _, h := range r.hooks() {
			l, err := link.LoadPinnedLink(filepath.Join(a.dir, h.name), nil)
			if err != nil {
				continue // not there
			}
			a.links = append(a.links, l)
			a.names = append(a.names, h.name)
			// ENOLINK: the cgroup is gone; Attachments tells, and the caller detaches.
			if err := l.Update(h.prog); err != nil && !errors.Is(err, unix.ENOLINK) {
				return errors.Join(fmt.Errorf("move %s of cgroup %d to the new program: %w", h.name, id, err), a.close())
			}
		}
		if len(a.links) == 0 || r.opts.FailOpen {
			if err := a.detach(); err != nil {
				return err
			}
			continue
		}
		if err := a.dropOthers(); err != nil {
			return errors.Join(err, a.close())
		}
		r.links[id] = a
	}
	return nil
}

// dropOthers takes off the hooks of another version that this one has no program for: theirs would go on, over maps that
// nobody else has any more.
func (a *attachment) dropOthers() error {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return fmt.Errorf("read pinned links: %w", err)
	}
	for _, e := range entries {
		if slices.Contains(a.names, e.Name()) {
			continue
		}
		if l, err := link.LoadPinnedLink(filepath.Join(a.dir, e.Name()), nil); err == nil {
			if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
				return errors.Join(fmt.Errorf("detach %s: %w", e.Name(), err), l.Close())
			}
			_ = l.Close()
		}
		if err := a.unpin(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// cgroupID is the kernel's id of a cgroup v2 directory: its inode number (since Linux 5.5).
func cgroupID(dir *os.File) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return 0, fmt.Errorf("look at %s: %w", dir.Name(), err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, fmt.Errorf("%s is not a cgroup v2 directory", dir.Name())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("look at %s: %w", dir.Name(), err)
	}
	return st.Ino, nil
}
