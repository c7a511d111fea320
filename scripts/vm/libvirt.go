package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// libvirt is a libvirtd in namespaces of its own. They end with its process, whatever they hold.
type libvirt struct {
	process *sandbox.Process
	dir     string
}

// startLibvirt is the thread's that main locked itself to: libvirt ends with it.
func (h *host) startLibvirt(ctx context.Context) (*libvirt, error) {
	l := &libvirt{dir: filepath.Join(h.dir, "libvirt")}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return nil, err
	}
	tail := sandbox.NewTail("ready", false)
	cmd := exec.Command("scripts/vm/libvirt.sh", l.dir)
	cmd.Stdout, cmd.Stderr = tail, tail
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Setpgid:    true, Pdeathsig: syscall.SIGKILL,
	}
	var err error
	if l.process, err = sandbox.Start("libvirt", cmd, cmd.Start); err != nil {
		return nil, err
	}
	select {
	case <-tail.Heard():
		return l, nil
	case <-l.process.Ended():
		return nil, fmt.Errorf("libvirt ended: %v: %s", l.process.Err(), tail.Text())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), l.stop())
	}
}

// inside is a command that sees what libvirt sees.
func (l *libvirt) inside(argv ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(l.process.PID()), "--mount", "--net", "--pid", "--"}, argv...)
}

// stop ends everything that runs in the namespaces: the kernel does, when their first process ends.
func (l *libvirt) stop() error {
	if err := syscall.Kill(l.process.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("libvirt: %w", err)
	}
	<-l.process.Ended()
	return nil
}
