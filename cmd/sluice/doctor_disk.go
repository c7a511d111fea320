package main

import (
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// scarceDisk is how much room for its state a daemon should have, in bytes: far more than a day's audit log takes.
const scarceDisk = 64 << 20

// fileSystem is the one that a path, or the nearest directory above it that exists, is on.
func fileSystem(path string) (info unix.Statfs_t, err error) {
	for {
		err = unix.Statfs(path, &info)
		if !errors.Is(err, fs.ErrNotExist) || path == "/" {
			return info, err
		}
		path = filepath.Dir(path)
	}
}

// checkDisk says whether a daemon can store there what it learns: without that it goes on from memory.
func checkDisk(dir string) finding {
	info, err := fileSystem(dir)
	if err != nil {
		return failed("disk", "run 'sudo sluice doctor'", "%s: %s", dir, err)
	}
	return judgeDisk(dir, info)
}

func judgeDisk(dir string, info unix.Statfs_t) finding {
	const check = "disk"
	room := info.Bfree * uint64(info.Frsize) // root may use what is reserved
	switch {
	case info.Flags&unix.ST_RDONLY != 0:
		return failed(check, "mount it read-write, or choose another --state-dir", "%s is on a file system that is mounted read-only", dir)
	case info.Blocks == 0: // it does not say
	case room == 0 || info.Files > 0 && info.Ffree == 0:
		return failed(check, "make room: what is known in memory only is written then", "what holds %s is full, and nothing can be stored", dir)
	case room < scarceDisk:
		return warn(check, "make room", "there are %d MiB left for %s", room>>20, dir)
	}
	return ok(check, "there is room for %s", dir)
}
