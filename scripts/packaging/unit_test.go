package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const unitFile = "systemd/sluice.service"

// highestExposure is what `systemd-analyze security` may say at the most, of 10.
const highestExposure = 4.0

// systemd runs one of its commands that need no running systemd.
func systemd(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestUnitIsValid has systemd read the unit, and the examples that go with it.
func TestUnitIsValid(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), "/usr/bin/sluice", "/bin/true") // which is not installed here
	}
	unit := write("sluice.service", read(unitFile))
	slice := write("agents.slice", read("systemd/examples/agents.slice"))
	files := []string{unit, slice}
	for _, dropIn := range []string{"in-agents-slice", "attached"} {
		write(dropIn+".service.d/sluice.conf", read("systemd/examples/"+dropIn+".conf"))
		files = append(files, write(dropIn+".service", "[Service]\nExecStart=/bin/true\n"))
	}
	for _, file := range files {
		if said := systemd(t, "systemd-analyze", "verify", "--man=no", file); strings.TrimSpace(said) != "" {
			t.Errorf("%s: %s", filepath.Base(file), said)
		}
	}
}

// TestUnitIsHardened reads the figure.
func TestUnitIsHardened(t *testing.T) {
	t.Parallel()
	said := systemd(t, "systemd-analyze", "security", "--no-pager", "--offline=yes", unitFile)
	found := regexp.MustCompile(`Overall exposure level for sluice\.service: ([0-9.]+)`).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("no figure in\n%s", said)
	}
	if exposure, err := strconv.ParseFloat(found[1], 64); err != nil || exposure > highestExposure {
		t.Errorf("exposure %s (%v), want at most %v:\n%s", found[1], err, highestExposure, said)
	}
}

// TestUnitAllowsWhatTheDaemonDoes holds the unit against what systemd makes of some settings, as a daemon under it has shown (scripts/vm).
func TestUnitAllowsWhatTheDaemonDoes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	settings := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			settings[name] = append(settings[name], strings.Fields(value)...)
		}
	}
	// Its filter answers openat2(2) with ENOSYS: that one's flags are in memory, where seccomp(2) cannot look.
	if slices.Contains(settings["RestrictSUIDSGID"], "yes") {
		t.Error("RestrictSUIDSGID=yes forbids openat2(2), by which the files of agents are opened")
	}
	// ProtectKernelTunables= and ProtectControlGroups= name these themselves. Of two entries for one path the
	// read-only one stays, and a path below is not touched by it.
	protected := map[string]string{"ProtectKernelTunables": "/sys/fs/bpf", "ProtectControlGroups": "/sys/fs/cgroup"}
	for setting, path := range protected {
		if slices.Contains(settings[setting], "yes") && slices.Contains(settings["ReadWritePaths"], "-"+path) {
			t.Errorf("ReadWritePaths=%s is of no effect beside %s=yes: name what is below it", path, setting)
		}
	}
	// The cgroup of a connection is found by its id.
	if filter := settings["SystemCallFilter"]; !slices.Contains(filter, "open_by_handle_at") || !slices.Contains(settings["CapabilityBoundingSet"], "CAP_DAC_READ_SEARCH") {
		t.Errorf("open_by_handle_at(2) has to be allowed, and needs CAP_DAC_READ_SEARCH; SystemCallFilter=%s", filter)
	}
	const pins = "/sys/fs/bpf/sluice"
	if !slices.Contains(settings["ReadWritePaths"], "-"+pins) || !slices.Contains(settings["ExecStartPre"], pins) {
		t.Errorf("%s has to be made before the daemon starts, and to be writable", pins)
	}
}

// TestGroupAndDirectories makes what sysusers.d and tmpfiles.d describe in an empty root.
func TestGroupAndDirectories(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("chown and chroot need root")
	}
	dir := t.TempDir()
	for _, sub := range []string{"etc", "run", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"} {
		if err := os.WriteFile(filepath.Join(dir, "etc", file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	absolute := func(name string) string {
		path, err := filepath.Abs(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, command := range [][2]string{{"systemd-sysusers", absolute("sluice.sysusers")}, {"systemd-tmpfiles", absolute("sluice.tmpfiles")}} {
		inside := filepath.Join(dir, filepath.Base(command[1])) // --root looks for relative to it
		text, err := os.ReadFile(command[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(inside, text, 0o644); err != nil {
			t.Fatal(err)
		}
		args := []string{command[0], "--root=" + dir, inside}
		if command[0] == "systemd-tmpfiles" {
			args = []string{command[0], "--root=" + dir, "--create", inside}
		}
		systemd(t, args...)
	}
	groups, err := os.ReadFile(filepath.Join(dir, "etc", "group"))
	if err != nil || !regexp.MustCompile(`(?m)^sluice:x?:?`).Match(groups) {
		t.Errorf("no group sluice (%v):\n%s", err, groups)
	}
	for name, mode := range map[string]os.FileMode{"run/sluice": 0o755, "var/lib/sluice": 0o700, "etc/sluice": 0o750} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v (%v), want %v", name, info, err, mode)
		}
	}
}
