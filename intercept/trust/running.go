package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
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
// same bundle with the CA added, read-only. The files come from a file system that nobody
// else sees; nothing is written into the namespace's own, which may be read-only. Covering
// twice changes nothing, and another CA takes the first one's place. It returns the bundles
// by the path that they have in there. When it fails, none is covered.
//
// The error matches ErrHost, ErrShared or fs.ErrNotExist (the process has ended). It needs
// Linux 5.12 (mount_setattr).
func Cover(pid int, ca []byte) ([]string, error) {
	if len(certificates(ca)) == 0 {
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
	var bundles []string
	var merged [][]byte
	err = within(ns, func() error {
		for _, bundle := range Bundles("/root", "") {
			if slices.ContainsFunc(covers, func(c laid) bool { return c.at == bundle }) {
				continue
			}
			original, err := readBundle(bundle)
			if err != nil {
				return err
			}
			bundles, merged = append(bundles, bundle), append(merged, Merge(original, ca))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := apart(pid, bundles); err != nil {
		return nil, err
	}
	if err := mount(ns, name, bundles, merged); err != nil {
		return nil, err
	}
	for _, c := range covers {
		bundles = append(bundles, c.at)
	}
	slices.Sort(bundles)
	return bundles, nil
}

// maxBundle is how long a bundle may be, in bytes: all roots of the world are some 250 KiB.
const maxBundle = 16 << 20

// readBundle reads a file that somebody else has made: a pipe must not keep us waiting.
func readBundle(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxBundle {
		return nil, fmt.Errorf("read %s: it is no file of certificates", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxBundle))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
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
			if err := unix.Unmount(c.at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
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
		if name := path.Base(strings.TrimSuffix(m.Root, "//deleted")); strings.HasPrefix(name, coverName) {
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
func apart(pid int, paths []string) error {
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
	for _, p := range paths {
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

// mount covers bundles by files with these contents.
func mount(ns *os.File, name string, bundles []string, contents [][]byte) (err error) {
	if len(bundles) == 0 {
		return nil
	}
	files, err := detachedFiles(name, contents)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.15 nothing can be cloned from what is mounted nowhere
		var remove func()
		files, remove, err = hostFiles(name, contents)
		defer remove()
	}
	defer func() {
		for _, fd := range files {
			_ = unix.Close(fd)
		}
	}()
	if err != nil {
		return err
	}
	return within(ns, func() error {
		for i, fd := range files {
			if err := unix.MoveMount(fd, "", unix.AT_FDCWD, bundles[i], unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				for _, done := range bundles[:i] {
					_ = unix.Unmount(done, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
				}
				return fmt.Errorf("mount over %s: %w", bundles[i], err)
			}
		}
		return nil
	})
}

// readOnly are a cover's attributes.
var readOnly = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}

// detachedFiles makes a mount of each file, on a file system that is mounted nowhere.
func detachedFiles(name string, contents [][]byte) (mounts []int, err error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file system for certificates: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	for key, value := range map[string]string{"source": source, "mode": "0755", "size": "64m"} {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return nil, fmt.Errorf("make a file system for certificates: %s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("make a file system for certificates: %w", err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a file system for certificates: %w", err)
	}
	defer func() { _ = unix.Close(root) }()
	return cloneFiles(root, name, contents)
}

// hostFiles makes a mount of each file, on the host's /run. The files themselves are of no
// more use once they are mounted where they belong: remove takes them away.
func hostFiles(name string, contents [][]byte) (mounts []int, remove func(), err error) {
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
	mounts, err = cloneFiles(root, name, contents)
	return mounts, remove, err
}

func cloneFiles(dir int, name string, contents [][]byte) (mounts []int, err error) {
	for i, text := range contents {
		file := name + "-" + strconv.Itoa(i) + ".pem"
		fd, err := unix.Openat(dir, file, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return mounts, fmt.Errorf("make %s: %w", file, err)
		}
		f := os.NewFile(uintptr(fd), file)
		_, err = f.Write(text)
		if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
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

// Lacking says what a process that runs already does not trust, and the way out; "" if it
// reads a bundle, or is not known to be one that does not.
func Lacking(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return "" // it has ended, or is a thread of the kernel's
	}
	command := strings.TrimSuffix(path.Base(exe), " (deleted)")
	text, _ := os.ReadFile(filepath.Join(dir, "environ"))
	environ := strings.Split(string(text), "\x00")
	says := func(name string) bool { return value(environ, name) != "" }
	who := fmt.Sprintf("%s (pid %d)", command, pid)
	switch {
	case command == "node" || command == "nodejs" || command == "bun" || command == "claude":
		if says(nodeExtra) || strings.Contains(value(environ, "NODE_OPTIONS"), "--use-openssl-ca") || strings.Contains(value(environ, "NODE_OPTIONS"), "--use-system-ca") {
			return ""
		}
		return who + " has its roots built in: start it again with " + nodeExtra + "=/etc/ssl/certs/ca-certificates.crt"
	case command == "deno":
		if says("DENO_CERT") || value(environ, "DENO_TLS_CA_STORE") == "system" {
			return ""
		}
		return who + " has its roots built in: start it again with DENO_TLS_CA_STORE=system"
	case command == "java":
		return who + " reads a key store of its own: import what 'sluice ca show' prints into it, with keytool"
	case strings.HasPrefix(command, "chrom") || strings.HasPrefix(command, "firefox"):
		return who + " has a store of its own: add what 'sluice ca show' prints in its settings"
	}
	return ""
}
