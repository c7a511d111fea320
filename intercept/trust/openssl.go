package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// opensslDir is where Debian's OpenSSL looks for roots: in its cert.pem, and else for one at a time in its certs, by the
// hash of the name that it wants. Before 3.0.5-3 it had no cert.pem there (Debian 11, Ubuntu 22.04), so that Python, Ruby
// and others that rely on its defaults read no bundle that could be covered.
const opensslDir = "/usr/lib/ssl"

// certPEM is the name that it looks for.
const certPEM = "cert.pem"

// What such a directory may have at the most: it is some links and scripts.
const maxEntries, maxEntryBytes, maxDepth = 64, 1 << 20, 2

// errOther says that a directory is not what OpenSSL's package made.
var errOther = errors.New("it has something else in it")

// entry is what a directory has.
type entry struct {
	name     string
	mode     uint32
	uid, gid int
	link     string
	text     []byte
	within   []entry
}

// coverOpenSSL gives OpenSSL its cert.pem, a link to the system's bundle, if it has none: by a copy of its directory in the
// directory's place. That can be written if the directory can, as packages are updated there. It returns the
// directory, or "".
func coverOpenSSL(ns *os.File, pid int, name string, covers []laid) (covered string, err error) {
	if slices.ContainsFunc(covers, func(c laid) bool { return c.at == opensslDir }) {
		return opensslDir, nil
	}
	var entries []entry
	var st unix.Stat_t
	var on unix.Statfs_t
	fd := -1
	defer func() {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}()
	bundle := ""
	err = within(ns, func() (err error) {
		bundle = System()
		fd, err = unix.Openat2(unix.AT_FDCWD, opensslDir, &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil || bundle == "" {
			return fs.ErrNotExist
		}
		return nil
	})
	if err == nil {
		entries, err = lacking(fd, &st, &on)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errOther) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", opensslDir, err)
	}
	if err := apart(pid, []spot{{at: opensslDir}}); err != nil {
		return "", err
	}
	made, err := newTmpfs(name, "16m")
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(made) }()
	root, err := unix.Openat(made, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("copy %s: %w", opensslDir, err)
	}
	defer func() { _ = unix.Close(root) }()
	entries = append(entries, entry{name: certPEM, link: bundle, mode: unix.S_IFLNK})
	if err := writeEntries(root, entry{mode: st.Mode, uid: int(st.Uid), gid: int(st.Gid), within: entries}); err != nil {
		return "", fmt.Errorf("copy %s: %w", opensslDir, err)
	}
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if on.Flags&unix.ST_RDONLY != 0 {
		attributes.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(made, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
		return "", fmt.Errorf("make a file system for certificates: %w", err)
	}
	if err := within(ns, func() error {
		return unix.MoveMount(made, "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	}); err != nil {
		return "", fmt.Errorf("mount over %s: %w", opensslDir, err)
	}
	return opensslDir, nil
}

// lacking reads a directory that has no cert.pem. It is outside of the namespace that the directory is in: a container's /proc, if
// it has one, knows nothing of our descriptors. The error matches errOther if it has one, which leads to a bundle or is one.
func lacking(fd int, st *unix.Stat_t, on *unix.Statfs_t) ([]entry, error) {
	if err := errors.Join(unix.Fstat(fd, st), unix.Fstatfs(fd, on)); err != nil {
		return nil, err
	}
	var there unix.Stat_t
	if err := unix.Fstatat(fd, certPEM, &there, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOENT) {
		return nil, errOther
	}
	left := maxEntries
	return readEntries(fd, maxDepth, &left)
}

// readEntries reads a directory, of which left tells how many entries it may still have. The error matches errOther.
func readEntries(dir, depth int, left *int) ([]entry, error) {
	again, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "directory")
	defer f.Close()
	names, err := f.Readdirnames(*left + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if *left -= len(names); *left < 0 || depth == 0 {
		return nil, errOther
	}
	var all []entry
	for _, name := range names {
		e, err := readEntry(again, name, depth, left)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

func readEntry(dir int, name string, depth int, left *int) (entry, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return entry{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return entry{}, err
	}
	e := entry{name: name, mode: st.Mode, uid: int(st.Uid), gid: int(st.Gid)}
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		e.link = string(buf[:max(n, 0)])
		return e, err
	case unix.S_IFREG:
		if st.Size > maxEntryBytes {
			return e, errOther
		}
		f, err := openLooked(fd)
		if err != nil {
			return e, err
		}
		defer f.Close()
		e.text, err = readAll(f, maxEntryBytes)
		return e, err
	case unix.S_IFDIR:
		sub, err := unix.Open(self, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return e, err
		}
		defer func() { _ = unix.Close(sub) }()
		e.within, err = readEntries(sub, depth-1, left)
		return e, err
	}
	return e, errOther
}

// writeEntries fills a directory that nobody else sees.
func writeEntries(dir int, e entry) error {
	for _, one := range e.within {
		err := errOther
		switch one.mode & unix.S_IFMT {
		case unix.S_IFLNK:
			if err = unix.Symlinkat(one.link, dir, one.name); err == nil {
				err = unix.Fchownat(dir, one.name, one.uid, one.gid, unix.AT_SYMLINK_NOFOLLOW)
			}
		case unix.S_IFREG:
			err = writeFile(dir, one)
		case unix.S_IFDIR:
			if err = unix.Mkdirat(dir, one.name, 0o700); err != nil {
				break
			}
			var sub int
			if sub, err = unix.Openat(dir, one.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
				break
			}
			err = writeEntries(sub, one)
			_ = unix.Close(sub)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path.Clean(one.name), err)
		}
	}
	return errors.Join(unix.Fchown(dir, e.uid, e.gid), unix.Fchmod(dir, e.mode&0o7777))
}

func writeFile(dir int, e entry) error {
	fd, err := unix.Openat(dir, e.name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), filepath.Base(e.name))
	_, err = f.Write(e.text)
	return errors.Join(err, f.Chown(e.uid, e.gid), f.Chmod(fs.FileMode(e.mode&0o777)), f.Close())
}
