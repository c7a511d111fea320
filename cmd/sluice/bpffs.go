package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// bpffsMount is where the BPF file system belongs (Documentation/bpf/).
const bpffsMount = "/sys/fs/bpf"

// onBPFFS says whether a path, or the nearest directory above it that exists,
// is on a BPF file system.
func onBPFFS(path string) (bool, error) {
	info, err := fileSystem(path)
	return info.Type == unix.BPF_FS_MAGIC, err
}

// mountBPFFS mounts the BPF file system if the pin directory is to be on the
// usual one and that is not mounted, as is the case without systemd. It says
// whether it did.
func mountBPFFS(pinDir string) (bool, error) {
	mounted, err := onBPFFS(pinDir)
	if err != nil || mounted {
		return false, err
	}
	if pinDir != bpffsMount && !strings.HasPrefix(pinDir, bpffsMount+"/") {
		return false, fmt.Errorf("pin_dir %s is not on a BPF file system: mount one there (mount -t bpf bpf DIR), or use %s",
			pinDir, defaultPinDir)
	}
	if err := os.MkdirAll(bpffsMount, 0o700); err != nil {
		return false, fmt.Errorf("mount bpffs: %w", err)
	}
	if err := unix.Mount("bpf", bpffsMount, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, "mode=700"); err != nil {
		return false, fmt.Errorf("mount bpffs on %s: %w", bpffsMount, err)
	}
	return true, nil
}

// unmountBPFFS takes back what mountBPFFS did, unless something is pinned there.
func unmountBPFFS() error {
	entries, err := os.ReadDir(bpffsMount)
	if err != nil || len(entries) > 0 {
		return err
	}
	if err := unix.Unmount(bpffsMount, 0); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmount %s: %w", bpffsMount, err)
	}
	return nil
}
