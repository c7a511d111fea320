package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// ownKernel is what the kernel that is installed in the guest is called.
const ownKernel = "bookworm"

// kernel is what qemu is given to boot.
type kernel struct {
	Name    string
	vmlinuz string
	initrd  string
	modules string // a disk with its modules; "" = they are on the guest's
}

// image is the guest's disk with its own kernel, and the key that opens it: a directory of the cache.
type image struct{ dir string }

func (i image) disk() string { return filepath.Join(i.dir, "disk.qcow2") }
func (i image) key() string  { return filepath.Join(i.dir, "key") }
func (i image) kernel() kernel {
	return kernel{Name: ownKernel, vmlinuz: filepath.Join(i.dir, "vmlinuz"), initrd: filepath.Join(i.dir, "initrd")}
}

// image is the cached one, or a new one.
func (h *host) image(ctx context.Context) (image, error) {
	key, err := digest("scripts/vm/image/build.sh", "scripts/vm/image/configure.sh", "scripts/vm/image/packages")
	if err != nil {
		return image{}, err
	}
	dir, err := h.cache.entry(ctx, "images", key[:16], func(ctx context.Context, dir string) error {
		return h.script(ctx, "scripts/vm/image/build.sh", dir, filepath.Join(h.cache.dir, "debs"))
	})
	return image{dir}, err
}

// kernel is the cached one, or is fetched.
func (h *host) kernel(ctx context.Context, name string) (kernel, error) {
	key, err := digest("scripts/vm/image/kernel.sh", "scripts/vm/image/kernels")
	if err != nil {
		return kernel{}, err
	}
	dir, err := h.cache.entry(ctx, "kernels", name+"-"+key[:16], func(ctx context.Context, dir string) error {
		return h.script(ctx, "scripts/vm/image/kernel.sh", name, dir)
	})
	in := func(name string) string { return filepath.Join(dir, name) }
	return kernel{Name: name, vmlinuz: in("vmlinuz"), initrd: in("initrd"), modules: in("modules.img")}, err
}

// script runs a script, which says what it does.
func (h *host) script(ctx context.Context, argv ...string) error {
	cmd := command(ctx, argv...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// command is one that ends with its context, or with this process, together with all that it started and did not put into a
// group of its own. Ctrl-C is not for it: it ends things in their order.
func command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
