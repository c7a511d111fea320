package trust

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestCoverOfAnOpenSSLWithoutAFile: Python as in Ubuntu 22.04 and Debian 11, where OpenSSL's directory has no cert.pem.
func TestCoverOfAnOpenSSLWithoutAFile(t *testing.T) {
	kerneltest.Require(t)
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v: scripts/deps.sh installs it", err)
	}
	first, second := newSite(t, "one.example"), newSite(t, "two.example")
	for name, more := range map[string]string{
		"writable": "true", "read-only": "mount -o remount,bind,ro " + opensslDir, "with a proc that does not know us": "mount -t tmpfs tmpfs /proc",
	} {
		t.Run(name, func(t *testing.T) {
			pid := running(t, 0, nil, "sh", "-c", `cp -a "$1/." "$2" && rm "$2/cert.pem" && mount --bind "$2" "$1" && `+more+`; echo; read end`,
				"sh", opensslDir, t.TempDir())
			asks := func(s site) error {
				cmd := exec.Command("nsenter", "--mount", "--target", itoa(pid), python, "-c", inPython, s.url)
				cmd.Env = []string{"PATH=/usr/bin:/bin"}
				return cmd.Run()
			}
			inside := func(name string) string { return filepath.Join("/proc", itoa(pid), "root", opensslDir, name) }
			before := count(t, pid)
			if err := asks(first); err == nil {
				t.Fatal("it trusts anybody")
			}
			for _, s := range []site{first, first, second} {
				bundles, err := Cover(pid, nil, nil, s.pem)
				if err != nil || !slices.Contains(bundles, opensslDir) || count(t, pid) != before+len(bundles) {
					t.Fatalf("%q, %v, %d covers", bundles, err, count(t, pid))
				}
				if err := asks(s); err != nil {
					t.Errorf("it does not trust: %v", err)
				}
			}
			if err := asks(first); err == nil {
				t.Error("it trusts whom it should no more")
			}
			for _, kept := range []string{"certs", "misc", "openssl.cnf", "private"} {
				was, err := os.Lstat(filepath.Join(opensslDir, kept))
				is, failed := os.Lstat(inside(kept))
				if err != nil || failed != nil || was.Mode() != is.Mode() {
					t.Errorf("%s: %v, %v", kept, err, failed)
				}
			}
			if err := os.WriteFile(inside("new"), nil, 0o644); errors.Is(err, unix.EROFS) != (name == "read-only") {
				t.Errorf("a file of a package's: %v", err)
			}
			if err := Uncover(pid); err != nil || count(t, pid) != before {
				t.Errorf("%v, %d covers, want %d", err, count(t, pid), before)
			}
			if err := asks(second); err == nil {
				t.Error("uncovered, it trusts")
			}
		})
	}
	odd := running(t, 0, nil, "sh", "-c", `mount --bind "$2" "$1" && mkfifo "$1/fifo"; echo; read end`, "sh", opensslDir, t.TempDir())
	if bundles, err := Cover(odd, nil, nil, first.pem); err != nil || slices.Contains(bundles, opensslDir) {
		t.Errorf("what is no directory of OpenSSL's: %q, %v", bundles, err)
	}
}
