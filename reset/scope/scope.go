// Package scope runs commands beside an agent that is in no container: in its cgroup,
// and in its mount and network namespaces.
package scope

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/reset/inside"
)

// childPrefix begins the names of the cgroups that commands are in.
const childPrefix = "sluice-reset-"

// Runtime reaches agents by the path of their cgroup. Its zero value is ready.
type Runtime struct{}

var _ reset.Runtime = Runtime{}

// Environment is that of the agent, if it runs as the user: another one's is not for
// that user to see.
func (Runtime) Environment(_ context.Context, cgroup string, uid uint32) ([]string, error) {
	pid, err := leader(cgroup, uid)
	if err != nil {
		return nil, err
	}
	if owner, err := inside.Owner(pid); err != nil || owner != uid {
		return nil, err
	}
	return inside.Environment(pid)
}

// ReadFile implements [reset.Runtime].
func (Runtime) ReadFile(_ context.Context, cgroup, path string, limit int64) ([]byte, error) {
	pid, err := leader(cgroup, 0)
	if err != nil {
		return nil, err
	}
	return inside.ReadFile(pid, path, limit)
}

// leader is a process of the agent's: the first one that runs as the user, or else the
// first one of all.
func leader(cgroup string, uid uint32) (int, error) {
	pids, err := inside.Processes(cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("cgroup %s: %w", cgroup, reset.ErrNotFound)
	}
	if err != nil {
		return 0, err
	}
	if len(pids) == 0 {
		return 0, fmt.Errorf("the agent is %w: there is no process in %s", reset.ErrNotRunning, cgroup)
	}
	for _, pid := range pids {
		if owner, err := inside.Owner(pid); err == nil && owner == uid {
			return pid, nil
		}
	}
	return pids[0], nil
}

// Exec implements [reset.Runtime]. The command gets a cgroup of its own below the
// agent's: whatever holds for the agent holds for it, and all of it can be killed
// without the agent.
func (Runtime) Exec(ctx context.Context, cgroup string, c reset.Command) (_ reset.Result, err error) {
	pid, err := leader(cgroup, c.UID)
	if err != nil {
		return reset.Result{}, err
	}
	in, err := openNamespaces(pid)
	if err != nil {
		return reset.Result{}, err
	}
	defer in.close()
	child, err := newChild(cgroup)
	if err != nil {
		return reset.Result{}, err
	}
	defer func() { err = errors.Join(err, child.remove()) }()
	return child.run(ctx, in, c)
}

// child is the cgroup of one command.
type child struct {
	path string
	dir  *os.File
}

// newChild also removes what a daemon that was killed has left there.
func newChild(cgroup string) (*child, error) {
	left, err := filepath.Glob(filepath.Join(escape(cgroup), childPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, path := range left {
		// A command of this daemon's is never there: a pool has one reset at a time, but
		// two pools may have one agent.
		if owner := strings.Split(strings.TrimPrefix(filepath.Base(path), childPrefix), "-")[0]; owner != strconv.Itoa(os.Getpid()) {
			if err := (&child{path: path}).remove(); err != nil {
				return nil, err
			}
		}
	}
	path := filepath.Join(cgroup, fmt.Sprintf("%s%d-%s", childPrefix, os.Getpid(), rand.Text()[:8]))
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup for the command: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return &child{path: path, dir: dir}, nil
}

// escape takes a path literally in a pattern.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// remove kills what is left in the cgroup and takes it away.
func (c *child) remove() error {
	err := inside.KillAll(c.path)
	if c.dir != nil {
		err = errors.Join(err, c.dir.Close())
	}
	if err != nil {
		return err
	}
	if err := inside.RemoveCgroup(c.path); err != nil {
		return fmt.Errorf("remove the command's cgroup: %w", err)
	}
	return nil
}

// namespaces are those of the agent that sluice is not in itself.
type namespaces struct{ net, mnt *os.File }

func openNamespaces(pid int) (_ *namespaces, err error) {
	in := new(namespaces)
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	if user, err := other(pid, "user"); err != nil || user != nil {
		if user != nil {
			_ = user.Close()
			err = fmt.Errorf("process %d is in a user namespace of its own, in which uids mean something else: name its container in the pool", pid)
		}
		return nil, err
	}
	if in.net, err = other(pid, "net"); err != nil {
		return nil, err
	}
	in.mnt, err = other(pid, "mnt")
	return in, err
}

// other opens a namespace of a process; nil if this one is in the same.
func other(pid int, kind string) (*os.File, error) {
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("process %d: %w", pid, reset.ErrNotRunning)
	}
	if err != nil {
		return nil, err
	}
	var a, b unix.Stat_t
	err = unix.Fstat(int(theirs.Fd()), &a)
	if err == nil {
		// Not /proc/self: that is the first thread, which may be in another namespace.
		err = unix.Stat("/proc/thread-self/ns/"+kind, &b)
	}
	if err != nil || a.Ino == b.Ino {
		return nil, errors.Join(err, theirs.Close())
	}
	return theirs, nil
}

func (n *namespaces) close() {
	for _, file := range []*os.File{n.net, n.mnt} {
		if file != nil {
			_ = file.Close()
		}
	}
}
