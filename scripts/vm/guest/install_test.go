//go:build guest

package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// highestExposure is what systemd-analyze may say at the most, of 10.
const highestExposure = 4.0

// machine says what the tests run on, and that it is what they are meant for.
func machine(t *testing.T) {
	release := run(t, "uname", "-r")
	t.Logf("Linux %s, %s", release, strings.SplitN(run(t, "systemctl", "--version"), "\n", 2)[0])
	if got := run(t, "stat", "-f", "-c", "%T", "/sys/fs/cgroup"); got != "cgroup2fs" {
		t.Errorf("/sys/fs/cgroup is %s, want cgroup2 alone", got)
	}
	if got := strings.TrimSpace(read(t, "/proc/1/comm")); got != "systemd" {
		t.Errorf("process 1 is %s", got)
	}
	if got := run(t, "systemctl", "is-system-running"); got != "running" {
		t.Errorf("the system is %s", got)
	}
	build(t)
	// What is there before sluice is. The second boot compares it.
	write(t, files+"/before", strings.Join(traces(t), "\n"))
}

// version is what a package has the binary say, as far as its name goes.
func version(t *testing.T, deb string) string {
	t.Helper()
	return run(t, "dpkg-deb", "-f", filepath.Join(files, deb), "Version")
}

// installed fails unless the binary that is there, and the daemon that runs, are of the package.
func installed(t *testing.T, deb string) {
	t.Helper()
	want := version(t, deb)
	if got := run(t, "dpkg-query", "-W", "-f", "${Status} ${Version}", "sluice"); got != "install ok installed "+want {
		t.Errorf("dpkg has %q, want %s", got, want)
	}
	runs, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid(t)))
	if err != nil || runs != "/usr/bin/sluice" {
		t.Errorf("the daemon runs %s (%v)", runs, err)
	}
	said := ask[struct{ Build struct{ Version string } }](t, "status").Build.Version
	// 0.0.0~git.COMMIT is a commit without a tag.
	if short := strings.TrimPrefix(want, "0.0.0~git."); strings.TrimPrefix(said, "v") != short {
		t.Errorf("the daemon says that it is %s, want %s", said, short)
	}
}

func install(t *testing.T) {
	run(t, "dpkg", "-i", files+"/this.deb")
	if got := run(t, "systemctl", "is-enabled", "sluice"); got != "enabled" {
		t.Errorf("the unit is %s", got)
	}
	// dpkg is done when the daemon says that it is ready.
	if status := run(t, "systemctl", "status", "--no-pager", "sluice"); !strings.Contains(status, "Active: active (running)") {
		t.Errorf("%s", status)
	}
	installed(t, "this.deb")
	if got := run(t, "stat", "-c", "%U:%G %a", "/run/sluice/sluice.sock"); got != "root:sluice 660" {
		t.Errorf("the socket is %s", got)
	}
	for path, want := range map[string]string{
		"/etc/sluice": "root:root 750", "/etc/sluice/config.toml": "root:root 640", "/var/lib/sluice": "root:root 700",
	} {
		if got := run(t, "stat", "-c", "%U:%G %a", path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	for _, page := range []string{"sluice.1.gz", "sluice-pool-create.1.gz"} {
		if _, err := os.Stat("/usr/share/man/man1/" + page); err != nil {
			t.Error(err)
		}
	}

	// The journal has each of the daemon's records as an entry with fields, and none as a line of its standard error.
	log := records(t)
	if len(log) == 0 {
		t.Error("the journal has nothing of the daemon's")
	}
	listening := false
	for _, record := range log {
		listening = listening || record["MSG"] == "listening" && record["SOCKET"] == "/run/sluice/sluice.sock" && record["PRIORITY"] == "6"
		if record["_TRANSPORT"] != "journal" || record["MSG"] == nil || record["LEVEL"] == nil || record["SYSLOG_IDENTIFIER"] != "sluice" {
			t.Errorf("not an entry of the journal's own: %v", record)
		}
	}
	if !listening {
		t.Errorf("nothing says that it listens: %v", log)
	}

	security := run(t, "systemd-analyze", "security", "--no-pager", "sluice.service")
	found := regexp.MustCompile(`Overall exposure level for sluice\.service: ([0-9.]+)`).FindStringSubmatch(security)
	if found == nil {
		t.Fatalf("no figure in\n%s", security)
	}
	if exposure, err := strconv.ParseFloat(found[1], 64); err != nil || exposure > highestExposure {
		t.Errorf("exposure %s (%v), want at most %v", found[1], err, highestExposure)
	}
	t.Logf("systemd-analyze security: %s", found[1])

	// What the kernel has given the daemon is what the unit lists, and no way to more.
	status := read(t, fmt.Sprintf("/proc/%d/status", pid(t)))
	if bounding := field(status, "CapBnd"); bounding != field(status, "CapPrm") || strings.Contains(bounding, "1ffffffffff") {
		t.Errorf("capabilities: permitted %s, bounding set %s", field(status, "CapPrm"), bounding)
	}
	if field(status, "NoNewPrivs") != "1" || field(status, "Seccomp") != "2" {
		t.Errorf("NoNewPrivs %s, Seccomp %s", field(status, "NoNewPrivs"), field(status, "Seccomp"))
	}

	doctor, code := try("sluice", "doctor")
	t.Logf("sluice doctor:\n%s", doctor)
	if code != 0 || strings.Contains(doctor, "FAIL") {
		t.Errorf("doctor: exit status %d", code)
	}
}

// field is a line of /proc/PID/status.
func field(status, name string) string {
	_, rest, _ := strings.Cut(status, "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

func configure(t *testing.T) {
	config := read(t, "/etc/sluice/config.toml")
	changed := strings.Replace(config, `#upstream_roots = ""`, `upstream_roots = "/etc/ssl/simulator.pem"`, 1)
	if changed == config {
		t.Fatal("the configuration has no upstream_roots")
	}
	write(t, "/etc/sluice/config.toml", changed)
	run(t, "systemctl", "restart", "sluice")
	feed(t, firstKey, "sluice", "cred", "add", "first")
	feed(t, secondKey, "sluice", "cred", "add", "second")
	run(t, "sluice", "pool", "create", "openai", "--members", "first,second", "--provider", "openai",
		"--auth-reset-target", "openai-codex", "--container", "boxed")
}
