package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// DefaultPinDir is where maps and links are kept between two lives of the daemon.
const DefaultPinDir = "/sys/fs/bpf/sluice"

// DefaultMaxFlows is how many redirected connections may wait to be accepted.
const DefaultMaxFlows = 65536

// spareFlows is how much larger the flows map is than it may become: of connects that ask at the same time whether there
// is room, all find it.
const spareFlows = 1024

// schema must equal SCHEMA in redirect.h: pins of another one are replaced.
const schema = 4

var (
	// ErrLocked is returned by [Load] when another process uses the same pin directory.
	ErrLocked = errors.New("pin directory is in use by another sluice")
	// ErrNoBPFFS is returned by [Load] when the pin directory is not on a bpf file system.
	ErrNoBPFFS = errors.New("not on a bpf file system")
	// ErrExclusive is matched by what [Redirect.Attach] returns when somebody else's program allows no other beside or below
	// it. The message names the program, the cgroup that it is on, and the way out.
	ErrExclusive = errors.New("an exclusive program is in the way")
	// ErrNotAttached is returned by [Redirect.Detach] for a cgroup without hooks.
	ErrNotAttached = errors.New("no hooks on this cgroup")
)

// Options of [Load]. The zero value is what a host's only daemon wants.
type Options struct {
	// PinDir is a directory on a bpf file system; it is made if its parent exists. Default: [DefaultPinDir].
	PinDir string
	// MaxFlows is how many redirected connections may wait to be accepted before further ones are refused. A third is kept
	// for targets that have few: each may have its part of that, and one alone a third. Default: [DefaultMaxFlows].
	MaxFlows uint32
	// FailOpen leaves the links unpinned, so that the kernel takes the hooks off
	// when this process ends, however it ends.
	FailOpen bool
	// Strict has sockets refused that are not TCP, UDP or ICMP datagram ones. Without it only
	// MPTCP is; what the others send to bound ports is dropped.
	Strict bool
}

// Redirect is the loaded programs and maps. Its methods may be called concurrently.
type Redirect struct {
	opts     Options
	objs     objects
	families *ebpf.Program // nil where the kernel has no such hook, and so is options
	options  *ebpf.Program
	lock     *os.File
	adopted  bool

	haveSetRetval bool
	takings       sync.Pool // *taking
	tally         tally

	mu    sync.Mutex
	links map[uint64]*attachment // by cgroup id
	ids   []wanted               // of the hooks' programs; nil before they were asked for
	vigil *vigil                 // nil until there is something to keep vigil over
	guard guard
}

// objects are what is loaded. Not the variables: their memory would keep a map in the kernel.
type objects struct {
	redirectPrograms
	redirectMaps
}

// Load puts the programs into the kernel. Maps that an earlier life pinned are
// adopted when they fit, so that redirected connections keep their destinations;
// otherwise new ones are built aside and renamed into place. Pinned links are
// moved to the new programs without a gap.
//
// Errors: [ErrLocked], [ErrNoBPFFS], [*UnsupportedError] when the kernel lacks something.
func Load(opts Options) (_ *Redirect, err error) {
	if opts.PinDir == "" {
		opts.PinDir = DefaultPinDir
	}
	if opts.MaxFlows == 0 {
		opts.MaxFlows = DefaultMaxFlows
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the locked memory limit: %w", err)
	}
	r := &Redirect{opts: opts, links: make(map[uint64]*attachment)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if err := r.lockPins(); err != nil {
		return nil, err
	}
	spec, err := loadRedirect()
	if err != nil {
		return nil, fmt.Errorf("read the compiled programs: %w", err)
	}
	spec.Maps[redirectMapFlows].MaxEntries = opts.MaxFlows + spareFlows
	if err := spec.Variables[redirectVarMaxFlows].Set(opts.MaxFlows); err != nil {
		return nil, fmt.Errorf("set %s: %w", redirectVarMaxFlows, err)
	}
	if r.haveSetRetval = haveSetRetval() == nil; r.haveSetRetval {
		if err := spec.Variables[redirectVarHaveSetRetval].Set(uint8(1)); err != nil {
			return nil, fmt.Errorf("set %s: %w", redirectVarHaveSetRetval, err)
		}
	}
	if opts.Strict {
		if err := spec.Variables[redirectVarStrict].Set(uint8(1)); err != nil {
			return nil, fmt.Errorf("set %s: %w", redirectVarStrict, err)
		}
	}
	if err := r.loadObjects(spec); err != nil {
		return nil, explain(err, Probe())
	}
	if err := r.tally.open(r.objs.Tally); err != nil {
		return nil, err
	}
	if err := r.shareOut(); err != nil {
		return nil, err
	}
	if err := r.loadFamilies(); err != nil {
		return nil, err
	}
	if err := r.loadGuard(); err != nil {
		return nil, explain(err, Probe())
	}
	if err := r.adoptGuards(); err != nil {
		return nil, err
	}
	if err := r.adoptLinks(); err != nil {
		return nil, err
	}
	if err := r.pruneGuarded(); err != nil {
		return nil, err
	}
	return r, nil
}

// Adopted says whether the maps are those of an earlier life.
func (r *Redirect) Adopted() bool { return r.adopted }

// Close gives up this process's handles. Pinned maps and links stay in force:
// with no listener behind them, redirected connects are refused.
func (r *Redirect) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for id, a := range r.links {
		errs = append(errs, a.close())
		delete(r.links, id)
	}
	errs = append(errs, r.closeVigil(), r.closeFamilies(), r.closeGuard(), r.tally.close(), r.objs.redirectPrograms.Close(), r.objs.redirectMaps.Close())
	if r.lock != nil {
		errs = append(errs, r.lock.Close())
		r.lock = nil
	}
	return errors.Join(errs...)
}

// Remove detaches every cgroup and removes all pins: nothing of sluice is left in
// the kernel. The Redirect must not be used afterwards.
func (r *Redirect) Remove() error {
	r.mu.Lock()
	var errs []error
	for id, a := range r.links {
		errs = append(errs, a.detach())
		delete(r.links, id)
	}
	if r.vigil != nil {
		for id, a := range r.vigil.above {
			errs = append(errs, a.detach())
			delete(r.vigil.above, id)
		}
	}
	errs = append(errs, r.dropVigils())
	for netns := range r.guard.links {
		errs = append(errs, r.detachGuards(netns, func(*guardLink) bool { return true }))
	}
	r.mu.Unlock()
	errs = append(errs, r.removePins())
	return errors.Join(append(errs, r.Close())...)
}

// removePins removes the pin directory with all that is in it. Where nothing but what is in it can be written to, as in the packaged
// unit, the empty directory stays for who made it.
func (r *Redirect) removePins() error {
	entries, err := os.ReadDir(r.opts.PinDir)
	if err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(r.opts.PinDir, entry.Name())))
	}
	if err := os.Remove(r.opts.PinDir); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EBUSY) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

func (r *Redirect) lockPins() error {
	if err := os.Mkdir(r.opts.PinDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the pin directory: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(r.opts.PinDir, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", r.opts.PinDir, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		_ = os.Remove(r.opts.PinDir)
		return fmt.Errorf("%s: %w: mount one with 'mount -t bpf bpf /sys/fs/bpf', or set pin_dir", r.opts.PinDir, ErrNoBPFFS)
	}
	dir, err := os.Open(r.opts.PinDir)
	if err != nil {
		return fmt.Errorf("open the pin directory: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%s: %w", r.opts.PinDir, ErrLocked)
		}
		return fmt.Errorf("lock %s: %w", r.opts.PinDir, err)
	}
	r.lock = dir
	return nil
}
