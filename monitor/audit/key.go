package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

const keySize = 32

// readKey reads the key and holds it to its size and mode.
func readKey(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("audit key %s: not a regular file; put the key back from a copy", file)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("audit key %s: mode %04o lets others read it; chmod 600 it, and take what was logged so far for unproven",
			file, info.Mode().Perm())
	case info.Size() != keySize:
		return nil, fmt.Errorf("audit key %s: %d bytes, not %d; put the key back from a copy", file, info.Size(), keySize)
	}
	key := make([]byte, keySize)
	if _, err := f.ReadAt(key, 0); err != nil {
		return nil, fmt.Errorf("audit key %s: %w", file, err)
	}
	return key, nil
}

// openKey reads the key, or makes one at the first start. The first head is
// written before the key is published: with a key there has to be a log.
func openKey(file, dir string) ([]byte, error) {
	key, err := readKey(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	rotated, current, err := segments(dir)
	if err != nil {
		return nil, err
	}
	if len(rotated) > 0 || current {
		return nil, fmt.Errorf("audit key %s is missing, and without it the log in %s proves nothing: put the key back from a copy, or move %s away to begin anew",
			file, dir, dir)
	}
	key = make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	l := &Log{opts: Options{Dir: dir}, seal: newSealer(key)}
	if err := l.writeHead(head{Gen: 1, Last: noMAC, FirstPrev: noMAC}); err != nil {
		return nil, err
	}
	if _, err := replace(file, key); err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	return key, nil
}
