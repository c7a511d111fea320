package main

import (
	"archive/tar"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func (c *cli) restoreCommand() *cobra.Command {
	var configFile, stateDir string
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Put a backup in the place of the state",
		Long: `Unpacks a backup of 'sluice backup' and makes it the daemon's state directory, which must not be there yet, or be empty:
move the one that is in the way aside first. The backup is opened and checked before it is put in place, in one step: it
is there whole or not at all. FILE may be - for standard input.

Targets are remembered and attached again when the daemon starts; cooldowns go on by the clock. Tokens of accounts that
were refreshed after the backup are out of date in it: 'sluice cred update' gives such an account new ones.`,
		Example: `  sudo systemctl stop sluice
  sudo mv /var/lib/sluice /var/lib/sluice.before
  sudo sluice restore /var/backups/sluice.tar.gz
  sudo systemctl start sluice`,
		Args: arguments("FILE"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: orAsRoot(func(cmd *cobra.Command, args []string) (err error) {
			dir, err := c.stateDirectory(configFile, stateDir)
			if err != nil {
				return err
			}
			from, name := c.stdin, "standard input"
			if args[0] != "-" {
				name = args[0]
				file, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("restore: %w", err)
				}
				defer func() { _ = file.Close() }() // only read
				from = file
			}
			if err := vacant(dir); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			staged, err := os.MkdirTemp(filepath.Dir(dir), ".sluice-restore-") // 0700
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			var left error
			defer func() { err = errors.Join(err, left) }()
			defer unlessEnded(func() { left = removeAll(staged) })()
			if err := unpack(from, staged); err != nil {
				return fmt.Errorf("restore: %w; %s was not touched", unrestorable(name, err), dir)
			}
			found, err := checkState(cmd.Context(), staged)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("restore: %s has no database in it: it is no backup of sluice; %s was not touched", name, dir)
			}
			if err != nil {
				return fmt.Errorf("restore: %w; %s was not touched", err, dir)
			}
			if err := place(staged, dir); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			c.caution(found, "put it back before the daemon starts")
			found.File = dir
			return c.done(found, dir)
		}),
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration file (default "+defaultConfigFile+", if it is there)")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "where the daemon is to find its state (default "+defaultStateDir+")")
	return cmd
}

// vacant says whether a state directory can be put at dir.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: stop the daemon and move the directory aside first, as in 'mv %s %s.before'", dir, dir, dir)
	}
	return nil
}

// unrestorable says what is wrong with an archive, unless it is this host that is.
func unrestorable(name string, err error) error {
	var host syscall.Errno
	var compressed flate.CorruptInputError
	switch {
	case errors.As(err, &host):
		return err
	case errors.Is(err, io.EOF):
		err = errors.New("it is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it is cut off")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, tar.ErrHeader):
		err = errors.New("it is no gzipped tar archive")
	case errors.Is(err, gzip.ErrChecksum), errors.As(err, &compressed):
		err = errors.New("it is damaged")
	}
	return fmt.Errorf("%s is no backup of sluice: %w", name, err)
}

// unpack takes directories and regular files out of an archive, none of them outside dir.
func unpack(from io.Reader, dir string) error {
	zip, err := gzip.NewReader(from)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // a directory
	for archive := tar.NewReader(zip); ; {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, zip) // the checksum is behind the last byte
			return err
		}
		if err != nil {
			return err
		}
		name := path.Clean(entry.Name)
		switch entry.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o700)
		case tar.TypeReg:
			err = unpackFile(root, name, archive)
		default:
			err = fmt.Errorf("%q is neither a file nor a directory", entry.Name)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, name string, from io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Sync(), file.Close())
}

// place makes a directory the one at dir, which is empty or not there, in one step.
func place(staged, dir string) error {
	if err := syncDirectory(staged); err != nil {
		return err
	}
	// Of a directory this takes away an empty one only.
	err := os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = os.Rename(staged, dir)
	}
	if err != nil {
		return fmt.Errorf("%w; a state directory that is a mount of its own cannot be replaced: unmount it, or restore below another path", err)
	}
	return syncDirectory(filepath.Dir(dir))
}

// syncDirectory has the names in a directory on the disk.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
