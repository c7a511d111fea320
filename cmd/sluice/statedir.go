package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ownStateDir refuses a state directory in which somebody else may put a file in the place of the daemon's: it would
// be taken for the CA that agents trust, or for the database. What others may only read is sealed or has a mode of its own.
func ownStateDir(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		info, err := os.Stat(path) // what it leads to
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		mode, owner := info.Mode(), info.Sys().(*syscall.Stat_t).Uid
		switch {
		case mode.Type() != 0 && !mode.IsDir():
			return nil
		case owner != uint32(os.Geteuid()):
			return fmt.Errorf("state directory: %s belongs to uid %d, who may put another CA or database there: run 'chown -R %d %s'; "+
				"if they may have done so, restore a backup instead", path, owner, os.Geteuid(), path)
		case mode.Perm()&0o022 != 0:
			return fmt.Errorf("state directory: %s may be written to by others (mode %04o), who may put another CA or database there: "+
				"run 'chmod -R go-w %s'; if they may have done so, restore a backup instead", path, mode.Perm(), path)
		case path == dir && mode.Perm()&0o011 == 0:
			return fs.SkipAll // nobody else gets to what is inside
		}
		return nil
	})
}
