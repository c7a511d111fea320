package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Each calls f once for each network namespace of this host that a process is in, or that is kept by a
// mount (as those of ip-netns(8)). One that goes meanwhile is left out. The namespace is closed after f.
func Each(f func(*NS)) error {
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "nsfs" || !strings.HasPrefix(m.Root, "net:"), false
	})
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, m := range mounts {
		paths = append(paths, m.Mountpoint)
	}
	seen := make(map[uint64]bool)
	var failed []error
	for _, path := range paths {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || seen[st.Ino] {
			continue // gone with its process, or had already
		}
		seen[st.Ino] = true
		n, err := Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		f(n)
		_ = n.Close()
	}
	return errors.Join(failed...)
}
