//go:build guest

package guest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// upgrade goes to another version and back, under load. State, attachments and listeners stay.
func upgrade(t *testing.T) {
	load(t)
	m, seq := markOf(agentLog), lastArrival(t)
	for _, deb := range []string{"next.deb", "this.deb"} {
		run(t, "dpkg", "-i", files+"/"+deb)
		installed(t, deb)
		attached(t, "agent.service")
		attached(t, "boxed")
		served(t, agentLog, 3)
	}
	judge(t, m, seq, "an upgrade and a downgrade")
	served(t, boxedLog, 1)
	if config := read(t, "/etc/sluice/config.toml"); !strings.Contains(config, `upstream_roots = "/etc/ssl/simulator.pem"`) {
		t.Error("the configuration was not kept")
	}
	run(t, "sluice", "audit", "verify")
}

// lastBoot has where the agent's log ended before the machine was booted again.
const lastBoot = files + "/last-boot"

// leave is the last of the first boot: from here on nobody does anything.
func leave(t *testing.T) {
	pace(t, wait)
	served(t, agentLog, 1)
	run(t, "systemctl", "start", "idle")
	run(t, "sluice", "attach", "--unit", "idle.service")
	write(t, lastBoot, strconv.FormatInt(markOf(agentLog).at, 10))
}

// attachedAgain looks at the second boot: nobody has done anything, and both agents are intercepted, from their first
// request on. What has no drop-in is attached, too.
func attachedAgain(t *testing.T) {
	at, err := strconv.ParseInt(read(t, lastBoot), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	attached(t, "agent.service")
	attached(t, "boxed")
	attached(t, "idle.service")
	served(t, agentLog, 3)
	served(t, boxedLog, 2)
	installed(t, "this.deb")
	// The simulator's journal began with this boot.
	placeholdersOnly(t, 0)
	if _, refused := (mark{agentLog, at}).sound(t); len(refused) > 0 {
		t.Errorf("the agent's unit attaches itself before its program starts, and it was refused %q", refused)
	}
	if failed := run(t, "systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
		t.Errorf("failed: %s", failed)
	}
	run(t, "sluice", "audit", "verify")
}

// remove takes the package away while agents run. Nothing of it stays in the kernel, and the agents are on their own again.
func remove(t *testing.T) {
	gone(t)
	if _, err := os.Stat("/var/lib/sluice/sluice.db"); err != nil {
		t.Errorf("a removal that is no purge took the state away: %v", err)
	}
	m := markOf(agentLog)
	eventually(t, "the agent's requests go where they are sent", func() string {
		lines := m.since(t)
		if len(lines) > 0 && strings.HasPrefix(lines[len(lines)-1], "401 ") && !intercepted(lines[len(lines)-1]) {
			return ""
		}
		return fmt.Sprintf("they do not: %q", lines)
	})
	if state, _ := try("systemctl", "is-active", "sluice"); state == "active" {
		t.Error("the daemon still runs")
	}
}

// purge leaves what was there before the package was.
func purge(t *testing.T) {
	run(t, "dpkg", "-P", "sluice")
	if err := os.RemoveAll("/etc/credstore.encrypted"); err != nil { // the administrator's, as docs/vault.md says
		t.Fatal(err)
	}
	before := strings.Split(read(t, files+"/before"), "\n")
	for _, line := range traces(t) {
		if !slices.Contains(before, line) {
			t.Errorf("left: %s", line)
		}
	}
	if out, status := try("getent", "group", "sluice"); status == 0 {
		t.Errorf("the group is left: %s", out)
	}
	if loaded := property(t, "sluice", "LoadState"); loaded != "not-found" {
		t.Errorf("the unit is %s", loaded)
	}
	if out, status := try("dpkg-query", "-W", "sluice"); status == 0 {
		t.Errorf("dpkg knows %s", out)
	}
}

// elsewhere are files that come and go without sluice.
var elsewhere = regexp.MustCompile(`^/(dev|proc|sys|tmp|root|home|run/(systemd|user|containerd|udev|log|netns|sshd)|var/(log|tmp|cache|lib/(containerd|dpkg|systemd|private))|` +
	`etc/(systemd/system|ssl/simulator\.pem|\.pwd\.lock|gshadow-?|group-?|hosts))(/|$)`)

// traces are what a program can leave: BPF programs, maps, links and pins; mounts in any namespace; rules, qdiscs and
// links of the network; sockets that listen; files, by their names.
func traces(t *testing.T) []string {
	t.Helper()
	var all []string
	add := func(kind string, lines []string) {
		for _, line := range lines {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, kind+" "+line)
			}
		}
	}
	name := regexp.MustCompile(`name (\S+)`)
	for _, kind := range []string{"prog", "map"} {
		for _, found := range name.FindAllStringSubmatch(run(t, "bpftool", kind, "list"), -1) {
			// systemd has programs of its own for its units.
			if !strings.HasPrefix(found[1], "sd_") {
				add(kind, []string{found[1]})
			}
		}
	}
	links := regexp.MustCompile(`(?m)^\d+: (.*)$`).FindAllStringSubmatch(run(t, "bpftool", "link", "list"), -1)
	for _, found := range links {
		add("link", []string{regexp.MustCompile(`\d+`).ReplaceAllString(found[1], "N")})
	}
	mounts, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range mounts {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "sluice") {
				all = append(all, "mount "+strings.TrimSpace(line))
			}
		}
	}
	add("nft", strings.Split(run(t, "nft", "list", "tables"), "\n"))
	for _, space := range []string{"", "agent"} {
		prefix := []string{}
		if space != "" {
			prefix = []string{"nsenter", "--net=/run/netns/" + space}
		}
		add("rules "+space, strings.Split(run(t, append(prefix, "nft", "list", "ruleset")...), "\n"))
		add("qdisc "+space, strings.Split(run(t, append(prefix, "tc", "qdisc", "show")...), "\n"))
		listening := run(t, append(prefix, "ss", "-Hltunp")...)
		for line := range strings.Lines(listening) {
			// containerd serves streams at a port that is another one after a boot.
			if fields := strings.Fields(line); len(fields) > 4 && !strings.Contains(line, `(("containerd",`) {
				add("socket "+space, []string{fields[0] + " " + fields[4]})
			}
		}
	}
	walk := func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil: // it has gone
		case !elsewhere.MatchString(path):
			all = append(all, "file "+path)
		case entry.IsDir():
			return fs.SkipDir
		}
		return nil
	}
	if err := filepath.WalkDir("/", walk); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/sys/fs/bpf", "/sys/fs/cgroup"} {
		pins, err := filepath.Glob(filepath.Join(dir, "*sluice*"))
		if err != nil {
			t.Fatal(err)
		}
		add("pin", pins)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
