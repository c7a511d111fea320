package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// unit is what systemd starts the daemon by.
const unit = "../../scripts/packaging/systemd/sluice.service"

// unitCapabilities are all that the unit leaves to the daemon, in setpriv's words.
func unitCapabilities(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, line := range regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindAllStringSubmatch(string(text), -1) {
		for _, name := range strings.Fields(line[1]) {
			all = append(all, strings.ToLower(strings.TrimPrefix(name, "CAP_")))
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s limits no capability", unit)
	}
	return all
}

// bounded runs a command with these capabilities only, and as the unit has it without a
// way to any other.
func bounded(capabilities []string) []string {
	return []string{"setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+" + strings.Join(capabilities, ",+")}
}

// TestUnitCapabilities has the daemon do its work with the capabilities of the unit and
// no others.
func TestUnitCapabilities(t *testing.T) {
	t.Parallel()
	kerneltest.Require(t)
	needs(t, "setpriv")
	all := unitCapabilities(t)
	h := newHouse(t, nil)
	h.daemon.kill()
	h.start(bounded(all)...)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.daemon.cmd.Process.Pid))
	if err != nil || strings.Contains(string(status), "CapEff:\t000001ffffffffff") || !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Fatalf("the daemon is not limited: %v\n%s", err, status)
	}
	h.spend("first")
	if got := h.chat("-d", chatBody); !strings.Contains(got, "\n200 ") {
		t.Errorf("with the unit's capabilities: %s", got)
	}
	// A process below what is attached, as in a slice or under a systemd in a container: its cgroup is looked up by its id.
	const below = `set -e; mount=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
		nested=$mount$(sed -n 's/^0:://p' /proc/self/cgroup)/nested; mkdir "$nested"; echo $$ >"$nested/cgroup.procs"
		exec curl -sS --max-time 20 -w '\n%{http_code}\n' -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/v1/models`
	if got := h.output("sh", "-c", below); !strings.Contains(got, "\n200") {
		t.Errorf("below what is attached: %s", got)
	}
}
