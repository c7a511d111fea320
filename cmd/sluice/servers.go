package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// serverDirs are where a program looks for a server of its own that does the work of all its windows. Codex's (from 0.169
// on) has its socket in the first, its process ID in the second, and in the third what the socket is a link to.
func serverDirs(environment []string, home string, uid uint32) []string {
	codex := valueOf(environment, "CODEX_HOME")
	if codex == "" {
		if home = cmp.Or(home, valueOf(environment, "HOME")); home == "" {
			return nil
		}
		codex = filepath.Join(home, ".codex")
	}
	temporary := cmp.Or(valueOf(environment, "TMPDIR"), "/tmp")
	return []string{
		filepath.Join(codex, "app-server-control"), filepath.Join(codex, "app-server-daemon"),
		filepath.Join(temporary, fmt.Sprintf("codex-daemon-%d", uid)),
	}
}

// hideServers covers those directories in this mount namespace, each by an empty one of the user's. A window would
// hand its work to a server that was started without sluice, which goes around it, or to that of another run, which
// ends with that: so it starts one of its own, in here.
func (s stage) hideServers(environment []string) error {
	for _, dir := range serverDirs(environment, s.Identity.Home, s.Identity.UID) {
		if err := hide(dir, s.Identity.UID, s.Identity.GID); err != nil {
			return fmt.Errorf("hide the server that %s is for: %w", dir, err)
		}
	}
	return nil
}

// hide mounts an empty directory over one that is this user's. A link, and what belongs to somebody else, is left as it
// is: a program with more privileges must not find there what the user has put in the place of its files.
func hide(dir string, uid, gid uint32) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return err
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return err
	}
	if info.Uid != uid {
		return nil
	}
	return unix.Mount("tmpfs", fmt.Sprintf("/proc/self/fd/%d", fd), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
		fmt.Sprintf("mode=700,uid=%d,gid=%d", uid, gid))
}
