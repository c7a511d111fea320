package packaging

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRelease makes a release twice, with the same sums, and has the script in its archive install,
// upgrade and uninstall.
func TestRelease(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	checkout(t, source)
	var sums [2]string
	var out string
	for i, umask := range []string{"002", "077"} { // Ubuntu's, and that of a careful root
		out = t.TempDir()
		makeUnder(t, umask, source, "release", "DIST="+out, "ARCHES=amd64", "VERSION=v1.2.3", "COMMIT=abc", "DATE=2026-01-02T03:04:05Z")
		text, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = string(text)
	}
	if sums[0] != sums[1] {
		t.Errorf("two releases of one commit differ:\n%s\n%s", sums[0], sums[1])
	}
	for _, name := range []string{"sluice_1.2.3_amd64.deb", "sluice_1.2.3_linux_amd64.tar.gz", "sluice_1.2.3_linux_amd64.cdx.json"} {
		if !strings.Contains(sums[0], "  "+name+"\n") {
			t.Errorf("the release has no %s:\n%s", name, sums[0])
		}
	}
	run(t, out, nil, "sha256sum", "--check", "--quiet", "SHA256SUMS")

	text, err := os.ReadFile(filepath.Join(out, "sluice_1.2.3_linux_amd64.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bill struct {
		BomFormat  string
		Components []struct{ Name string }
	}
	if err := json.Unmarshal(text, &bill); err != nil || bill.BomFormat != "CycloneDX" {
		t.Fatalf("%q: %v", bill.BomFormat, err)
	}
	known := make(map[string]bool)
	for _, component := range bill.Components {
		known[component.Name] = true
	}
	for _, module := range []string{"github.com/cilium/ebpf", "filippo.io/age", "modernc.org/sqlite"} {
		if !known[module] {
			t.Errorf("the list of modules lacks %s", module)
		}
	}

	unpacked, to := t.TempDir(), t.TempDir()
	run(t, unpacked, nil, "tar", "-xzf", filepath.Join(out, "sluice_1.2.3_linux_amd64.tar.gz"))
	script := filepath.Join(unpacked, "sluice_1.2.3_linux_amd64", "install.sh")
	below := []string{"DESTDIR=" + to}
	config := filepath.Join(to, "etc/sluice/config.toml")
	for range 2 {
		run(t, unpacked, below, "sh", "-c", `umask 077 && exec "$0"`, script)
		everybodyReads(t, filepath.Join(to, "usr"))
		if said := run(t, to, nil, filepath.Join(to, "usr/local/bin/sluice"), "version"); !strings.HasPrefix(said, "sluice v1.2.3 ") {
			t.Errorf("installed is %s", said)
		}
		if err := os.WriteFile(config, []byte("# mine\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, unpacked, below, script, "--uninstall")
	if left := filesBelow(t, to); len(left) != 1 || left[0] != config {
		t.Errorf("left is %q, want the configuration alone", left)
	}
	run(t, unpacked, below, script, "--uninstall", "--purge")
	if left := filesBelow(t, to); len(left) != 0 {
		t.Errorf("a purge leaves %q", left)
	}
}

// run runs a command and returns what it printed.
func run(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// filesBelow are the files in a directory and those below it, without the directories.
func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

// everybodyReads looks at the permissions of a directory and of all that is below it.
func everybodyReads(t *testing.T, dir string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if want := fs.FileMode(0o444); err == nil && info.Mode()&want != want || entry.IsDir() && info.Mode()&0o111 != 0o111 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
