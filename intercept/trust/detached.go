package trust

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// sheet is a file that is to cover another one.
type sheet struct {
	text     []byte
	mode     uint32 // permissions
	uid, gid int    // on the host
}

// readOnly are a cover's attributes.
var readOnly = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}

// cloned makes a mount of each sheet, which is attached nowhere yet. release takes back what is
// of no more use once they are attached; the mounts are the caller's to close.
func cloned(name string, sheets []sheet, older string) (mounts []int, release func(), err error) {
	mounts, err = detachedFiles(name, sheets, older)
	if !errors.Is(err, unix.EINVAL) {
		return mounts, func() {}, err
	}
	closeAll(mounts)
	return hostFiles(name, sheets, older) // before Linux 6.15 nothing can be cloned from what is mounted nowhere
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// detachedFiles makes the mounts of a file system that is mounted nowhere.
func detachedFiles(name string, sheets []sheet, older string) (mounts []int, err error) {
	root, err := newTmpfs(source, "256m")
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }()
	return cloneFiles(root, name, sheets, older)
}

// newTmpfs makes a file system that is mounted nowhere, and is known by its source.
func newTmpfs(source, size string) (root int, err error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make a file system for certificates: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	for key, value := range map[string]string{"source": source, "mode": "0755", "size": size} {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return -1, fmt.Errorf("make a file system for certificates: %s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make a file system for certificates: %w", err)
	}
	if root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("make a file system for certificates: %w", err)
	}
	return root, nil
}

// hostFiles makes the mounts of the host's /run. The files themselves are of no more use once
// they are mounted where they belong: remove takes them away.
func hostFiles(name string, sheets []sheet, older string) (mounts []int, remove func(), err error) {
	dir, err := os.MkdirTemp("/run", "sluice-trust-")
	if err != nil {
		return nil, func() {}, fmt.Errorf("make a directory for certificates: %w", err)
	}
	remove = func() { _ = os.RemoveAll(dir) }
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, remove, fmt.Errorf("open %s: %w", dir, err)
	}
	defer func() { _ = unix.Close(root) }()
	mounts, err = cloneFiles(root, name, sheets, older)
	return mounts, remove, err
}

// olderAttribute is where a cover notes the processes that are older than it: the knowledge lasts
// as long as the cover does. Nobody in a container can read or write it (xattr(7), trusted).
const olderAttribute = "trusted.sluice.older"

func cloneFiles(dir int, name string, sheets []sheet, older string) (mounts []int, err error) {
	for i, s := range sheets {
		file := name + "-" + strconv.Itoa(i) + ".pem"
		fd, err := unix.Openat(dir, file, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return mounts, fmt.Errorf("make %s: %w", file, err)
		}
		f := os.NewFile(uintptr(fd), file)
		_, err = f.Write(s.text)
		if older != "" {
			// Without CONFIG_TMPFS_XATTR it is not noted: then less is told of the trust, no less is trusted.
			_ = unix.Fsetxattr(fd, olderAttribute, []byte(older), 0)
		}
		if err = errors.Join(err, f.Chown(s.uid, s.gid), f.Chmod(os.FileMode(s.mode)), f.Close()); err != nil {
			return mounts, fmt.Errorf("write %s: %w", file, err)
		}
		clone, err := unix.OpenTree(dir, file, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return mounts, fmt.Errorf("clone the mount of %s: %w", file, err)
		}
		mounts = append(mounts, clone)
		if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, &readOnly); err != nil {
			return mounts, fmt.Errorf("make %s read-only: %w", file, err)
		}
	}
	return mounts, nil
}

// within calls f in a mount namespace, with its root as the root: links lead nowhere else.
func within(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this
		if unix.Gettid() == os.Getpid() {
			// But for the first thread, which would stay in there. While it is locked another one is taken.
			done <- within(ns, f)
			runtime.UnlockOSThread()
			return
		}
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)
		}
		if err != nil {
			done <- fmt.Errorf("enter the mount namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
