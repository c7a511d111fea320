package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Event is what happened to a watched cgroup.
type Event uint8

const (
	// Populated: there are processes in the cgroup or below it.
	Populated Event = iota + 1
	// Empty: the last process of the cgroup and those below it has ended or moved.
	Empty
	// Removed: the cgroup is gone. It is the last event of a watch.
	Removed
)

// String is the event's name in lower case.
func (e Event) String() string {
	switch e {
	case Populated:
		return "populated"
	case Empty:
		return "empty"
	case Removed:
		return "removed"
	}
	return fmt.Sprintf("event %d", uint8(e))
}

// Watch tells of the changes of a cgroup, beginning with its present state, until it is
// removed or ctx is done; then the channel is closed. Nothing is polled: the kernel
// notifies changes of cgroup.events (Linux 4.5) and the folder's removal by inotify(7).
// Changes that follow each other quickly may come as one, the last.
func Watch(ctx context.Context, path string) (<-chan Event, error) {
	id, err := ID(path)
	if err != nil {
		return nil, fmt.Errorf("watch cgroup: %w", err)
	}
	n, err := newNotifier()
	if err != nil {
		return nil, fmt.Errorf("watch cgroup %s: %w", path, err)
	}
	if err := errors.Join(
		n.add(filepath.Join(path, "cgroup.events"), unix.IN_MODIFY|unix.IN_DELETE_SELF),
		n.add(path, unix.IN_DELETE_SELF),
		n.add(filepath.Dir(path), unix.IN_DELETE),
	); err != nil {
		n.close()
		return nil, fmt.Errorf("watch cgroup %s: %w", path, err)
	}
	events := make(chan Event)
	go func() {
		defer close(events)
		defer n.close()
		defer n.closeWith(ctx)()
		var last Event
		for {
			now := state(path, id)
			if now != last && now != 0 {
				select {
				case events <- now:
				case <-ctx.Done():
					return
				}
				last = now
			}
			if now == Removed || n.wait() != nil {
				return
			}
		}
	}()
	return events, nil
}

// Appear waits until there is a cgroup at path. It follows the path down from the
// nearest folder that exists, by inotify. The error is ctx's, or the kernel's when
// nothing can be watched.
func Appear(ctx context.Context, path string) error {
	n, err := newNotifier()
	if err != nil {
		return fmt.Errorf("wait for cgroup %s: %w", path, err)
	}
	defer n.close()
	defer n.closeWith(ctx)()
	for ctx.Err() == nil {
		at := filepath.Dir(path)
		// From the parent up: a folder made between the check and the watch is seen
		// by the check that follows.
		for {
			err := n.add(at, unix.IN_CREATE|unix.IN_DELETE_SELF|unix.IN_MOVED_TO)
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) || at == "/" {
				return fmt.Errorf("wait for cgroup %s: %w", path, err)
			}
			at = filepath.Dir(at)
		}
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if _, err := os.Stat(next(at, path)); err == nil {
			continue // one step down already
		}
		if err := n.wait(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("wait for cgroup %s: %w", path, err)
		}
	}
	return ctx.Err()
}

// next is the folder below at on the way to path.
func next(at, path string) string {
	rest := strings.TrimPrefix(strings.TrimPrefix(path, at), "/")
	first, _, _ := strings.Cut(rest, "/")
	return filepath.Join(at, first)
}

// state reads the cgroup's state: 0 when it cannot be read for now.
func state(path string, id uint64) Event {
	if now, err := ID(path); err != nil || now != id {
		return Removed
	}
	text, err := os.ReadFile(filepath.Join(path, "cgroup.events"))
	if gone(err) {
		return Removed
	}
	for line := range strings.Lines(string(text)) {
		switch strings.TrimSpace(line) {
		case "populated 1":
			return Populated
		case "populated 0":
			return Empty
		}
	}
	return 0
}

// notifier is an inotify descriptor in the runtime's poller.
type notifier struct {
	file *os.File
	fd   int
	buf  [4096]byte
}

func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &notifier{file: os.NewFile(uintptr(fd), "inotify"), fd: fd}, nil
}

func (n *notifier) add(path string, mask uint32) error {
	_, err := unix.InotifyAddWatch(n.fd, path, mask)
	if err != nil {
		return &fs.PathError{Op: "inotify_add_watch", Path: path, Err: err}
	}
	return nil
}

// wait returns when something has happened; what, the caller looks up itself.
func (n *notifier) wait() error {
	_, err := n.file.Read(n.buf[:])
	return err
}

func (n *notifier) close() { _ = n.file.Close() }

// closeWith makes wait return once ctx is done; the function it returns undoes that.
// The descriptor is not closed here, so that n.fd stays valid.
func (n *notifier) closeWith(ctx context.Context) (undo func() bool) {
	return context.AfterFunc(ctx, func() { _ = n.file.SetReadDeadline(time.Unix(1, 0)) })
}
