package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Check asks the daemons and says, for people, which of them answer. "" with no error: there is none on this host.
// The error matches ErrUnavailable when one is there and none answers.
func (f *Finder) Check(ctx context.Context) (string, error) {
	there := false
	for _, socket := range []string{f.opts.Containerd, f.opts.Docker} {
		_, err := os.Stat(socket)
		there = there || !errors.Is(err, fs.ErrNotExist)
	}
	if !there {
		return "", nil
	}
	l, err := f.list(ctx, "")
	return strings.Join(l.looked, ", "), err
}

// CheckHold tells whether starts by these executables can be held. The error matches
// fs.ErrNotExist when there are none of them.
func CheckHold(runtimes []string) error {
	g, err := newGate(runtimes)
	if err != nil {
		return fmt.Errorf("hold the starts of containers: %w", err)
	}
	g.close()
	return nil
}
