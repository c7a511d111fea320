package trust

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// TestWaysRound is what a container can be, or do to its bundle, that would leave its programs without sluice's CA. The
// numbers are the project's list; package main has the container that is started again.
func TestWaysRound(t *testing.T) {
	kerneltest.Require(t)
	ca := newSite(t, "one.example").pem
	t.Run("case_52_read_only_root", func(t *testing.T) {
		pid := apartProcess(t, "private", "sh", "-c", "mount -o remount,bind,ro / && echo; read end")
		if err := os.WriteFile(filepath.Join("/proc", itoa(pid), "root/etc/sluice-test"), nil, 0o600); err == nil {
			t.Fatal("the root can be written")
		}
		bundles, err := Cover(pid, nil, nil, ca)
		if err != nil || !holds(seen(t, pid, System()), ca) {
			t.Errorf("%q, %v", bundles, err)
		}
	})
	t.Run("case_52_user_namespace", TestCoverInAUserNamespace)
	t.Run("case_52_update_ca_certificates", func(t *testing.T) {
		dir := t.TempDir()
		pid := apartProcess(t, "private", "sh", "-c", "cp -a /etc/ssl/certs/. "+dir+" && mount --bind "+dir+" /etc/ssl/certs && echo; read end")
		update := func() (string, error) {
			out, err := exec.Command("nsenter", "--mount", "--target", itoa(pid), "update-ca-certificates").CombinedOutput()
			return string(out), err
		}
		if said, err := update(); err != nil {
			t.Fatalf("before: %v: %s", err, said)
		}
		before := seen(t, pid, System())
		if _, err := Cover(pid, nil, nil, ca); err != nil {
			t.Fatal(err)
		}
		// It renames a new file over the bundle at its end, which nobody can do to what is mounted on.
		if said, err := update(); err == nil || !strings.Contains(said, "busy") {
			t.Errorf("%v: %s", err, said)
		}
		if now := seen(t, pid, System()); !holds(now, ca) || !bytes.Equal(now, Merge(before, ca)) {
			t.Error("the bundle is not what it was")
		}
		if err := Uncover(pid); err != nil {
			t.Fatal(err)
		}
		if said, err := update(); err != nil || !bytes.Equal(seen(t, pid, System()), before) {
			t.Errorf("after: %v: %s", err, said)
		}
	})
	t.Run("case_52_scratch_image", func(t *testing.T) {
		busybox, err := exec.LookPath("busybox")
		if err != nil {
			t.Fatal(err)
		}
		root := t.TempDir()
		body, err := os.ReadFile(busybox)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "busybox"), body, 0o755); err != nil {
			t.Fatal(err)
		}
		pid := apartProcess(t, "private", "sh", "-c", "mount --bind "+root+" "+root+" && cd "+root+" && pivot_root . . && "+
			"exec /busybox sh -c '/busybox umount -l . && cd / && echo; read end'")
		// There is nothing to cover. What is left is a variable, which its programs get with `sluice run`.
		if bundles, err := Cover(pid, nil, nil, ca); err != nil || len(bundles) != 0 || count(t, pid) != 0 {
			t.Errorf("%q, %v", bundles, err)
		}
		if entries, err := os.ReadDir(root); err != nil || len(entries) != 1 {
			t.Errorf("its files are %v, %v", entries, err)
		}
		if err := Uncover(pid); err != nil {
			t.Error(err)
		}
	})
}
