package main

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestJudgeDisk(t *testing.T) {
	t.Parallel()
	const block = 4096
	roomy := unix.Statfs_t{Frsize: block, Blocks: 1 << 20, Bfree: 1 << 19, Files: 1000, Ffree: 500}
	for name, tc := range map[string]struct {
		change func(*unix.Statfs_t)
		want   string
	}{
		"room":                    {func(*unix.Statfs_t) {}, findingOK},
		"a little":                {func(s *unix.Statfs_t) { s.Bfree = scarceDisk/block - 1 }, findingWarn},
		"none":                    {func(s *unix.Statfs_t) { s.Bfree = 0 }, findingFail},
		"no inode":                {func(s *unix.Statfs_t) { s.Ffree = 0 }, findingFail},
		"one that counts none":    {func(s *unix.Statfs_t) { s.Files, s.Ffree = 0, 0 }, findingOK},
		"one that counts no room": {func(s *unix.Statfs_t) { s.Blocks, s.Bfree = 0, 0 }, findingOK},
		"read-only":               {func(s *unix.Statfs_t) { s.Flags |= unix.ST_RDONLY }, findingFail},
	} {
		info := roomy
		tc.change(&info)
		if got := judgeDisk("/var/lib/sluice", info); got.State != tc.want || got.State != findingOK && got.Mend == "" {
			t.Errorf("%s: %+v, want %s", name, got, tc.want)
		}
	}
	// What is not there yet will be on the file system of what is.
	for _, dir := range []string{"/proc/sys/kernel", "/proc/none/of/these"} {
		if info, err := fileSystem(dir); err != nil || info.Type != unix.PROC_SUPER_MAGIC {
			t.Errorf("%s: %#x, %v", dir, info.Type, err)
		}
	}
	if got := checkDisk(filepath.Join(t.TempDir(), "not", "yet")); got.State == findingFail {
		t.Errorf("%+v", got)
	}
}
