package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// guest is a root directory with a shell and a dpkg database in it, and nothing else.
type guest struct {
	t   *testing.T
	dir string
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if os.Geteuid() != 0 || err != nil {
		if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
			t.Fatalf("chroot needs root, and a static busybox: %v", err)
		}
		t.Skip("chroot needs root, and a static busybox (scripts/deps.sh)")
	}
	g := &guest{t, t.TempDir()}
	for _, sub := range []string{"bin", "etc", "run", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log", "usr/share"} {
		if err := os.MkdirAll(filepath.Join(g.dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g.write("var/lib/dpkg/status", "")
	g.must("cp", busybox, filepath.Join(g.dir, "bin", "busybox"))
	g.must("chroot", g.dir, "/bin/busybox", "--install", "-s", "/bin")
	return g
}

func (g *guest) must(args ...string) string {
	g.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	// What is installed here must not be asked to start anything there.
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (g *guest) dpkg(args ...string) {
	g.t.Helper()
	g.must(append([]string{"dpkg", "--root=" + g.dir, "--force-depends"}, args...)...)
}

func (g *guest) write(name, text string) {
	g.t.Helper()
	file := filepath.Join(g.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// files are all there are, but for what dpkg itself keeps. The second result are those
// that are sluice's by their names.
func (g *guest) files() (all, ours []string) {
	g.t.Helper()
	err := filepath.WalkDir(g.dir, func(path string, _ fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, g.dir)
		if err == nil && !strings.HasPrefix(name, "/var/lib/dpkg") && !strings.HasPrefix(name, "/var/log") {
			all = append(all, name)
			if strings.Contains(name, "sluice") {
				ours = append(ours, name)
			}
		}
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return all, ours
}

// TestPackage builds the package, installs it with dpkg into a root of its own, runs what
// it holds, upgrades, removes and purges it. What was there before is what is there then.
func TestPackage(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	source, built := t.TempDir(), t.TempDir()
	checkout(t, source)
	stamp := []string{"COMMIT=abc", "DATE=2026-01-02T03:04:05Z", "DIST=" + built, "GOARCH=amd64"}
	for _, version := range []string{"v1.2.3", "v1.3.0"} {
		makeTarget(t, source, append([]string{"package", "VERSION=" + version}, stamp...)...)
	}
	first, second := filepath.Join(built, "sluice_1.2.3_amd64.deb"), filepath.Join(built, "sluice_1.3.0_amd64.deb")

	listed := g.must("dpkg-deb", "--contents", first)
	for _, line := range []string{
		"-rwxr-xr-x root/root", "./usr/bin/sluice\n", "./usr/lib/systemd/system/sluice.service\n", "./usr/lib/sysusers.d/sluice.conf\n",
		"./usr/lib/tmpfiles.d/sluice.conf\n", "./usr/share/bash-completion/completions/sluice\n", "./usr/share/zsh/vendor-completions/_sluice\n",
		"./usr/share/fish/vendor_completions.d/sluice.fish\n", "./usr/share/doc/sluice/copyright\n", "./usr/share/man/man1/sluice-pool-create.1.gz\n",
		"./usr/share/doc/sluice/changelog.gz\n", "./usr/share/lintian/overrides/sluice\n",
	} {
		if !strings.Contains(listed, line) {
			t.Errorf("the package has no %q:\n%s", line, listed)
		}
	}
	if !strings.Contains(listed, "drwxr-x--- root/root") || !strings.Contains(listed, "-rw-r----- root/root") {
		t.Errorf("everybody may read /etc/sluice:\n%s", listed)
	}
	for _, line := range strings.Split(strings.TrimSpace(listed), "\n") {
		if !strings.Contains(line, " root/root ") || !strings.Contains(line, "2026-01-02") {
			t.Errorf("not root's, or of another time than the commit: %s", line)
		}
	}

	before, _ := g.files()
	g.dpkg("--install", first)
	// Policy 4.4 has the form; 12.7 the name, which a version with a revision changes.
	const changes = "sluice (1.2.3) stable; urgency=medium\n\n  * Built from commit abc.\n\n" +
		" -- The sluice authors <sluice@sluice-proxy.example>  Fri, 02 Jan 2026 03:04:05 +0000\n"
	if said := g.must("chroot", g.dir, "/bin/zcat", "/usr/share/doc/sluice/changelog.gz"); said != changes {
		t.Errorf("the changelog is\n%s\nwant\n%s", said, changes)
	}
	if said := g.must("chroot", g.dir, "/usr/bin/sluice", "version"); !strings.HasPrefix(said, "sluice v1.2.3 (commit abc, 2026-01-02T03:04:05Z") {
		t.Errorf("the installed binary is %s", said)
	}
	const changed = "[log]\nlevel = \"warn\"\n"
	g.write("etc/sluice/config.toml", changed)
	g.write("var/lib/sluice/sluice.db", "what a daemon left")
	g.write("run/sluice/x", "")
	g.dpkg("--install", second)
	if said := g.must("chroot", g.dir, "/usr/bin/sluice", "version"); !strings.HasPrefix(said, "sluice v1.3.0 ") {
		t.Errorf("after the upgrade it is %s", said)
	}
	g.dpkg("--remove", "sluice")
	if text, err := os.ReadFile(filepath.Join(g.dir, "etc/sluice/config.toml")); err != nil || string(text) != changed {
		t.Errorf("an upgrade and a removal made the configuration %q (%v)", text, err)
	}
	if _, err := os.Stat(filepath.Join(g.dir, "var/lib/sluice/sluice.db")); err != nil {
		t.Errorf("a removal that is no purge took the state away: %v", err)
	}
	g.dpkg("--purge", "sluice")
	after, ours := g.files()
	if len(ours) > 0 {
		t.Errorf("a purge leaves %q", ours)
	}
	for _, name := range after {
		if !slices.Contains(before, name) {
			t.Errorf("a purge leaves %s", name)
		}
	}
}

// TestInstallAndUninstall puts everything below a prefix, and takes it away again.
func TestInstallAndUninstall(t *testing.T) {
	t.Parallel()
	source, to := t.TempDir(), t.TempDir()
	checkout(t, source)
	arguments := []string{"DESTDIR=" + to, "PREFIX=/usr/local", "VERSION=v1", "COMMIT=c", "DATE=2026-01-02T03:04:05Z"}
	for range 2 { // a second time changes nothing
		makeUnder(t, "077", source, append([]string{"install"}, arguments...)...)
		everybodyReads(t, filepath.Join(to, "usr"))
		if err := os.WriteFile(filepath.Join(to, "etc/sluice/config.toml"), []byte("# mine\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unit, err := os.ReadFile(filepath.Join(to, "usr/local/lib/systemd/system/sluice.service"))
	if err != nil || !strings.Contains(string(unit), "ExecStart=/usr/local/bin/sluice serve") {
		t.Errorf("the unit starts another binary (%v):\n%s", err, unit)
	}
	makeTarget(t, source, append([]string{"uninstall"}, arguments...)...)
	var left []string
	if err := filepath.WalkDir(to, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			left = append(left, strings.TrimPrefix(path, to))
		}
		return err
	}); err != nil || !slices.Equal(left, []string{"/etc/sluice/config.toml"}) {
		t.Errorf("left is %q (%v), want the configuration alone", left, err)
	}
	if text, err := os.ReadFile(filepath.Join(to, "etc/sluice/config.toml")); err != nil || string(text) != "# mine\n" {
		t.Errorf("the configuration is %q (%v), want it kept", text, err)
	}
}
