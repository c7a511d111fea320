package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Copy writes the log in dir, as it is at one moment, into a directory that it makes
// (0700, files 0600). A daemon may write to the log meanwhile. What is copied is not
// checked: damage is copied too, and [Verify] finds it in the copy.
func Copy(dir, to string) error {
	for range snapshotTries {
		s, same, err := takeSnapshot(dir)
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		if !same {
			s.close()
			continue
		}
		err = s.copy(to)
		s.close()
		if err != nil {
			return fmt.Errorf("copy the audit log: %w", err)
		}
		return nil
	}
	return fmt.Errorf("audit log %s: it is written to all the time; try again", dir)
}

func (s *snapshot) copy(to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	if s.head != nil {
		if err := os.WriteFile(filepath.Join(to, headName), s.head, 0o600); err != nil {
			return err
		}
	}
	for _, f := range s.files {
		if err := f.copy(filepath.Join(to, f.name)); err != nil {
			return err
		}
	}
	return nil
}

// copy writes as much of a file as there was at the moment of the snapshot.
func (f snapshotFile) copy(to string) error {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(f, 0, f.size))
	return errors.Join(err, out.Close())
}
