package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// TestProfilesOfTheConfiguration runs them in a container: the command with the target, the user, the environment, the
// time-out and the check of each.
func TestProfilesOfTheConfiguration(t *testing.T) {
	t.Parallel()
	w := newWard(t, nil, `
[profile.says]
argv = ["sh", "-c", "echo $0 $1 $OWN $HOME; id -u; id -g", "{target}", "a {target} b"]
user = "1234:4321"
environment = { OWN = "own thing" }
[profile.slow]
argv = ["sh", "-c", "echo begun; sleep 991 & sleep 992"]
user = "10000:10000"
timeout = "1s"
[profile.doubted]
argv = ["true"]
user = "10000:10000"
check = ["sh", "-c", "echo still $0; exit 3", "{target}"]
`)
	c := w.box.Run("agent", containerbox.ContainerOptions{})
	reset := func(provider, profile string) api.AgentReset {
		t.Helper()
		w.sluice("sk-"+profile, "cred", "add", "of-"+profile)
		w.sluice("", "pool", "create", profile, "--members", "of-"+profile, "--provider", provider,
			"--auth-reset-target", "the.target_1", "--agent-profile", profile, "--container", "agent")
		cmd := exec.Command(w.path, "pool", "reset-agent", profile, "-o", "json")
		cmd.Env = []string{"SLUICE_SOCKET=" + w.socket, quickExit}
		said, _ := cmd.Output() // that it fails is told by the report, too
		var report api.ResetReport
		if err := json.Unmarshal(said, &report); err != nil || len(report.Agents) != 1 {
			t.Fatalf("%s: %v: %s", profile, err, said)
		}
		return report.Agents[0]
	}
	if got := reset("openai", "says"); !got.Succeeded || got.Output != "the.target_1 a the.target_1 b own thing /root\n1234\n4321\n" {
		t.Errorf("says: %+v", got)
	}
	began := time.Now()
	if got := reset("anthropic", "slow"); got.Succeeded || !strings.Contains(got.Reason, "did not end within 1s and was killed") || got.Output != "begun\n" ||
		time.Since(began) > 20*time.Second {
		t.Errorf("slow: %+v", got)
	}
	if ps, _ := c.Exec(0, "ps"); strings.Contains(ps, "sleep 99") {
		t.Errorf("its children run on:\n%s", ps)
	}
	if got := reset("github", "doubted"); got.Succeeded || !strings.Contains(got.Reason, "the check failed") || !strings.Contains(got.Reason, "still the.target_1") {
		t.Errorf("doubted: %+v", got)
	}
	for _, target := range []string{"-x", "a b", "$(id)", strings.Repeat("x", 65)} {
		if said, err := w.try("pool", "set-auth-reset", "--", "says", target); err == nil || strings.Count(said, "\n") != 1 {
			t.Errorf("target %q: %v, %q", target, err, said)
		}
	}
}
