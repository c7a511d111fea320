package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

var (
	// ErrHost says that a process sees the host's own files, which are not covered for it.
	ErrHost = errors.New("it sees the host's own files")
	// ErrShared says that what is mounted for a process would show up outside, too.
	ErrShared = errors.New("its mounts are shared with the host's")
)

// coverName begins the name of a file that covers a bundle, before a digest of the CA.
const coverName = "sluice-ca-"

// Cover has the programs in the mount namespace of a process that runs trust ca (PEM), as
// far as they read a certificate bundle from now on: each one that exists is covered by the
// same bundle with the CA added, read-only, and with the owner and permissions that it has. The
// files come from a file system that nobody else sees; nothing is written into the namespace's
// own, which may be read-only. Covering twice changes nothing, and another CA takes the first
// one's place. beside are further processes of the same agent's, and environ is
// what one will be given that is yet to be executed: bundles that their environments name are covered, too. It returns the bundles by the path that they have in there.
//
// The error matches ErrHost, ErrShared or fs.ErrNotExist (the process has ended), and then none is
// covered; or it names what is in a bundle's place and is none, and the others are covered. It needs Linux
// 5.12 (mount_setattr).
func Cover(pid int, beside []int, environ []string, ca []byte) ([]string, error) {
	if !hasCertificate(ca) {
		return nil, nil // no host is bound
	}
	ns, err := enterable(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	covers, err := covered(pid)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(ca)
	name := coverName + hex.EncodeToString(sum[:6])
	if slices.ContainsFunc(covers, func(c laid) bool { return !strings.HasPrefix(c.name, name) }) {
		if err := uncover(ns, covers); err != nil {
			return nil, err
		}
		covers = nil
	}
	beside = sharing(ns, append(beside, pid))
	spots, cut, err := find(ns, placesOf(beside, environ), covers)
	if err != nil {
		return nil, err
	}
	defer closeSpots(spots)
	spots, odd := read(spots, ca)
	if cut {
		odd = append(odd, fmt.Errorf("not every bundle is looked for: there are too many files (%d are looked at, %d taken)", maxNames, maxMatches))
	}
	if err := apart(pid, spots); err != nil {
		return nil, err
	}
	older := noted(pid, covers) // what is added to covers was seen by the same processes
	if len(covers) == 0 {
		older = capable(beside).String()
	}
	if err := mount(ns, name, spots, older); err != nil {
		return nil, err
	}
	if dir, err := coverOpenSSL(ns, pid, name, covers); err != nil {
		odd = append(odd, err)
	} else if dir != "" && !slices.ContainsFunc(covers, func(c laid) bool { return c.at == dir }) {
		covers = append(covers, laid{at: dir, name: name})
	}
	bundles := make([]string, 0, len(spots)+len(covers))
	for _, s := range spots {
		bundles = append(bundles, s.at)
	}
	for _, c := range covers {
		bundles = append(bundles, c.at)
	}
	slices.Sort(bundles)
	return bundles, errors.Join(odd...)
}

// spot is a bundle that is to be covered. Between the look at it and the mount a program in there
// may put something else in its place: the descriptor stays with what was looked at.
type spot struct {
	at    string // as the process sees it, without links
	named bool   // by an environment only
	fd    int    // O_PATH
	sheet sheet
}

func closeSpots(spots []spot) {
	for _, s := range spots {
		_ = unix.Close(s.fd)
	}
}

// find opens the bundles in a mount namespace that are not covered. cut says that there may be more of them.
func find(ns *os.File, p Places, covers []laid) (spots []spot, cut bool, err error) {
	err = within(ns, func() error {
		s := newSearch(maxNames, maxMatches)
		bundles, named := s.bundles(p)
		cut = s.cut()
		for i, bundle := range bundles {
			if slices.ContainsFunc(covers, func(c laid) bool { return c.at == bundle }) {
				continue
			}
			fd, err := unix.Openat2(unix.AT_FDCWD, bundle, &unix.OpenHow{
				Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
			})
			if errors.Is(err, unix.ENOSYS) {
				return fmt.Errorf("openat2 is forbidden, by a seccomp filter such as that of RestrictSUIDSGID= in a unit: %w", err)
			}
			if err != nil {
				continue // it has gone, or become a link, since
			}
			spots = append(spots, spot{at: bundle, named: i >= named, fd: fd})
		}
		return nil
	})
	return spots, cut, err
}

// maxBundle is how long a bundle may be, in bytes: all roots of the world are some 250 KiB.
const maxBundle = 16 << 20

// read fills in the sheets, and leaves out what cannot be covered.
func read(spots []spot, ca []byte) (good []spot, odd []error) {
	left, over := maxAll, 0
	for _, s := range spots {
		text, err := s.read(left)
		if errors.Is(err, errEnough) {
			over++
			continue
		}
		if s.named && (err != nil || !hasCertificate(text) && !isKeyStore(text)) {
			continue // a variable may name anything
		}
		if serves(s.at, text) {
			continue
		}
		if err == nil {
			left -= len(text)
			if s.sheet.text, err = MergeAny(text, ca); err != nil {
				err = fmt.Errorf("%s is not covered: %w", s.at, err)
			}
		}
		if err != nil {
			odd = append(odd, err)
			continue
		}
		good = append(good, s)
	}
	if over > 0 {
		odd = append(odd, fmt.Errorf("bundles that are not covered, as with those that are they have more than %d MiB: %d", maxAll>>20, over))
	}
	const most = 10 // are said
	if more := len(odd) - most; more > 0 {
		odd = append(odd[:most], fmt.Errorf("and %d more", more))
	}
	return good, odd
}

// read reads a file that somebody else has made, of left bytes at the most. It is looked at before it is opened: a pipe
// would keep us waiting, and a device may act.
func (s *spot) read(left int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", s.at, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxBundle {
		return nil, fmt.Errorf("%s is not covered: it is no file of certificates", s.at)
	}
	if st.Size > int64(left) {
		return nil, errEnough
	}
	f, err := openLooked(s.fd)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.at, err)
	}
	defer f.Close()
	text, err := readAll(f, int64(left))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.at, err)
	}
	s.sheet = sheet{mode: st.Mode & 0o777, uid: int(st.Uid), gid: int(st.Gid)}
	return text, nil
}

// Uncover takes off what Cover has mounted in the namespace of a process, whoever called it.
// A process that has ended, or that sees the host's files, is no error.
func Uncover(pid int) error {
	ns, err := enterable(pid)
	if errors.Is(err, ErrHost) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	covers, err := covered(pid)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return uncover(ns, covers)
}

func uncover(ns *os.File, covers []laid) error {
	return within(ns, func() error {
		var failed []error
		for _, c := range slices.Backward(covers) {
			// Not valid is what is gone already, or is locked: a sandbox has inherited it with its other mounts
			// (mount_namespaces(7)), and keeps it as long as it lives.
			if err := unix.Unmount(c.at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				failed = append(failed, fmt.Errorf("take the cover off %s: %w", c.at, err))
			}
		}
		return errors.Join(failed...)
	})
}

// enterable opens the mount namespace of a process, if that is not the host's.
func enterable(pid int) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("open the mount namespace of process %d: %w", pid, err)
	}
	onHost, err := seesHost(pid)
	if err == nil && onHost {
		err = fmt.Errorf("process %d: %w", pid, ErrHost)
	}
	if err != nil {
		_ = ns.Close()
		return nil, err
	}
	return ns, nil
}

// seesHost tells whether a process is in the host's mount namespace, which is that of its first process, or
// in ours: we may be in one of our own, as services are (PrivateMounts= in systemd.exec(5)). A mount is
// in one namespace, so it is enough to have one in common; and to see none, which takes a chroot(2), is
// to be left alone. mountinfo may be read of processes whose namespace files may not (ptrace(2), access mode checking).
func seesHost(pid int) (bool, error) {
	theirs, err := mountsOf(pid)
	if err != nil {
		return false, err
	}
	hosts := make(map[int]bool)
	for _, host := range []int{1, os.Getpid()} {
		mounts, err := mountsOf(host)
		if err != nil {
			return false, err
		}
		for _, m := range mounts {
			hosts[m.ID] = true
		}
	}
	return len(theirs) == 0 || slices.ContainsFunc(theirs, func(m *mountinfo.Info) bool { return hosts[m.ID] }), nil
}

// laid is a cover that Cover has mounted.
type laid struct {
	at   string // as the process sees it
	name string // of the file
}

// covered finds covers in a process's mounts: they outlive whoever made them.
func covered(pid int) ([]laid, error) {
	mounts, err := mountsOf(pid)
	if err != nil {
		return nil, err
	}
	var all []laid
	for _, m := range mounts {
		name := path.Base(strings.TrimSuffix(m.Root, "//deleted"))
		if m.Root == "/" {
			name = m.Source // a directory's
		}
		if strings.HasPrefix(name, coverName) {
			all = append(all, laid{at: m.Mountpoint, name: name})
		}
	}
	return all, nil
}

// mountsOf are the mounts that a process sees (proc_pid_mountinfo(5)).
func mountsOf(pid int) ([]*mountinfo.Info, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("read the mounts of process %d: %w", pid, err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("read the mounts of process %d: %w", pid, err)
	}
	return mounts, nil
}

// apart makes sure that what is mounted on paths in a process's namespace is not mounted on
// the host as well: mount_namespaces(7), on shared subtrees.
func apart(pid int, spots []spot) error {
	theirs, err := mountsOf(pid)
	if err != nil {
		return err
	}
	hosts := make(map[string]bool)
	for _, host := range []int{1, os.Getpid()} {
		mounts, err := mountsOf(host)
		if err != nil {
			return err
		}
		for _, m := range mounts {
			if group := peers(m); group != "" {
				hosts[group] = true
			}
		}
	}
	for _, s := range spots {
		p := s.at
		var over *mountinfo.Info
		for _, m := range theirs {
			if (m.Mountpoint == "/" || p == m.Mountpoint || strings.HasPrefix(p, m.Mountpoint+"/")) && (over == nil || len(m.Mountpoint) >= len(over.Mountpoint)) {
				over = m
			}
		}
		if over != nil && hosts[peers(over)] {
			return fmt.Errorf("cover %s in process %d: %w", p, pid, ErrShared)
		}
	}
	return nil
}

func peers(m *mountinfo.Info) string {
	for _, f := range strings.Fields(m.Optional) {
		if strings.HasPrefix(f, "shared:") {
			return f
		}
	}
	return ""
}

// mount covers the spots.
func mount(ns *os.File, name string, spots []spot, older string) error {
	if len(spots) == 0 {
		return nil
	}
	sheets := make([]sheet, 0, len(spots))
	for _, s := range spots {
		sheets = append(sheets, s.sheet)
	}
	covers, release, err := cloned(name, sheets, older)
	defer release()
	defer closeAll(covers)
	if err != nil {
		return err
	}
	return within(ns, func() error {
		for i, fd := range covers {
			if err := unix.MoveMount(fd, "", spots[i].fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
				for _, done := range spots[:i] {
					_ = unix.Unmount(done.at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
				}
				return fmt.Errorf("mount over %s: %w", spots[i].at, err)
			}
		}
		return nil
	})
}
