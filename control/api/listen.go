package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// socketGroup is the group whose people may use the socket, if it exists.
const socketGroup = "sluice"

// ErrInUse is returned by [Listen] when a daemon answers on the socket.
var ErrInUse = errors.New("a daemon already answers there")

// Listen makes the unix socket at path with mode 0660, owned by root and the
// group "sluice", or by root alone (0600) where there is no such group. What an
// earlier daemon left behind is replaced; one that still answers is left
// alone, with an error for which errors.Is(err, [ErrInUse]) holds.
//
// The socket is made in a directory of its own and then renamed, so that there
// is no moment at which somebody else may connect. Close removes it.
func Listen(ctx context.Context, path string) (*Socket, error) {
	return listen(ctx, path, socketGroup)
}

func listen(ctx context.Context, path, group string) (*Socket, error) {
	if err := clearStale(ctx, path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".sluice-")
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	inner, err := new(net.ListenConfig).Listen(ctx, "unix", made)
	if errors.Is(err, syscall.EINVAL) { // 107 bytes, of which the directory beside it takes some
		return nil, fmt.Errorf("socket %s: it is too long for the path of a socket (unix(7)): choose another --socket", path)
	}
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	unix := inner.(*net.UnixListener)
	unix.SetUnlinkOnClose(false)
	l := &Socket{UnixListener: unix, path: path}
	if err := l.publish(made, group); err != nil {
		inner.Close()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}

// clearStale removes a socket on which nobody listens.
func clearStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file of another kind at this place: remove it or choose another --socket")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		conn.Close()
		return ErrInUse
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, context.DeadlineExceeded):
		// A full backlog: somebody listens, however slowly.
		return ErrInUse
	}
	return err
}

// Socket is the listener on the unix socket.
type Socket struct {
	*net.UnixListener
	path  string
	info  fs.FileInfo
	stays bool
	close sync.Once
}

// Inherit goes on with a socket that an earlier daemon has made with [Listen], with this inode. Those who have
// connected since wait in it. It takes over file, and fails unless that socket is still at path.
func Inherit(file *os.File, path string, inode uint64) (*Socket, error) {
	defer file.Close()
	inner, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("take over a socket: %w", err)
	}
	unix, ok := inner.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("take over a socket: it is no unix socket"), inner.Close())
	}
	unix.SetUnlinkOnClose(false)
	l := &Socket{UnixListener: unix, path: path}
	if l.info, err = os.Lstat(path); err != nil || l.Inode() != inode || l.info.Mode().Type() != fs.ModeSocket {
		return nil, errors.Join(fmt.Errorf("take over a socket: it is not at %s any more", path), err, unix.Close())
	}
	return l, nil
}

// Inode is the number of the socket's file.
func (l *Socket) Inode() uint64 {
	if st, ok := l.info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

// Stay has Close leave the file: whoever else has the socket open goes on with it.
func (l *Socket) Stay() { l.stays = true }

func (l *Socket) publish(made, name string) error {
	mode, gid := fs.FileMode(0o600), -1
	if group, err := user.LookupGroup(name); err == nil {
		if gid, err = strconv.Atoi(group.Gid); err != nil {
			return err
		}
		mode = 0o660
	}
	if gid >= 0 {
		if err := os.Chown(made, -1, gid); err != nil {
			return err
		}
	}
	if err := os.Chmod(made, mode); err != nil {
		return err
	}
	info, err := os.Lstat(made)
	if err != nil {
		return err
	}
	l.info = info
	return os.Rename(made, l.path)
}

// Close stops listening and removes the socket, unless it stays or another one is at its
// place by now.
func (l *Socket) Close() error {
	err := l.UnixListener.Close()
	l.close.Do(func() {
		if l.stays {
			return
		}
		if info, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(info, l.info) {
			os.Remove(l.path)
		}
	})
	return err
}
