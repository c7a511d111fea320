//go:build guest

package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// records are the daemon's own entries in the journal of this boot, as fields.
func records(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(run(t, "journalctl", "-b", "-u", "sluice", "_COMM=sluice", "--no-pager", "-o", "json")) {
		record := make(map[string]any)
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("journalctl -o json: %v: %s", err, line)
		}
		all = append(all, record)
	}
	return all
}

// recorded waits for an entry with these fields.
func recorded(t *testing.T, fields map[string]string) {
	t.Helper()
	matches := []string{"journalctl", "-b", "-u", "sluice", "--no-pager", "-o", "cat"}
	for name, value := range fields {
		matches = append(matches, name+"="+value)
	}
	eventually(t, fmt.Sprintf("the journal has %v", fields), func() string {
		if out, status := try(matches...); status == 0 && out != "" && !strings.HasPrefix(out, "-- No entries") {
			return ""
		}
		return "no such entry"
	})
}

// examples is where the package has the drop-ins that the pages speak of.
const examples = "/usr/share/doc/sluice/examples/"

// attachUnit attaches a unit that runs, and is not asked to do anything for it. With the drop-in it attaches itself, before its program
// is there.
func attachUnit(t *testing.T) {
	begun := lastArrival(t)
	run(t, "systemctl", "start", "agent")
	eventually(t, "the agent asks by itself", func() string {
		if len(arrivals(t, begun)) == 0 {
			return "nothing arrived"
		}
		return ""
	})
	before := property(t, "agent", "MainPID")
	run(t, "sluice", "attach", "--unit", "agent.service")
	attached(t, "agent.service")
	served(t, agentLog, 3)
	m, seq := markOf(agentLog), lastArrival(t)
	served(t, agentLog, 3)
	if good, refused := m.sound(t); good == 0 || len(refused) > 0 {
		t.Errorf("%d good answers, refused %q", good, refused)
	}
	placeholdersOnly(t, seq)
	if after := property(t, "agent", "MainPID"); after != before {
		t.Errorf("the agent was process %s and is %s", before, after)
	}

	write(t, "/etc/systemd/system/agent.service.d/sluice.conf", read(t, examples+"attached.conf"))
	run(t, "systemctl", "daemon-reload")
	run(t, "systemctl", "stop", "agent")
	for _, one := range ask[[]target](t, "targets") {
		run(t, "sluice", "detach", one.ID)
	}
	m, seq = markOf(agentLog), lastArrival(t)
	run(t, "systemctl", "start", "agent")
	served(t, agentLog, 2)
	if good, refused := m.sound(t); good == 0 || len(refused) > 0 {
		t.Errorf("attached by its own start: %d good answers, refused %q", good, refused)
	}
	placeholdersOnly(t, seq)
	attached(t, "agent.service")
}

// attachContainer attaches a container before it runs: its first request is intercepted, and trusts.
func attachContainer(t *testing.T) {
	createBoxed(t)
	run(t, "sluice", "attach", "--container", "boxed")
	seq := lastArrival(t)
	m := markOf(boxedLog)
	run(t, "systemctl", "start", "boxed")
	attached(t, "boxed")
	served(t, boxedLog, 2)
	if good, refused := m.sound(t); good == 0 || len(refused) > 0 {
		t.Errorf("%d good answers, refused %q", good, refused)
	}
	placeholdersOnly(t, seq)
	if said, status := hermes(t, "ask", api+"/v1/chat/completions"); status != 0 || said != "200" {
		t.Errorf("hermes: %d %s", status, said)
	}
}

// runOut is the whole story of a pool: a key runs out and no agent notices, the other does too, hermes latches, the pool
// is back and hermes is reset as its own user.
func runOut(t *testing.T) {
	const url = api + "/v1/chat/completions"
	restore(t, "first")
	restore(t, "second")
	seq, begun := lastEvent(t), lastArrival(t)
	unit, box := markOf(agentLog), markOf(boxedLog)
	// The first is not back before the second is, however slow the machine: what is between takes it some seconds, or a minute.
	spend(t, "first", 10*time.Minute)
	eventually(t, "failover", func() string {
		if got := kinds(t, seq, "cred_failover"); len(got) == 0 {
			return "no failover"
		}
		return ""
	})
	if said, status := hermes(t, "ask", url); status != 0 || said != "200" {
		t.Errorf("with the second key: %d %s", status, said)
	}
	served(t, boxedLog, 1)
	for _, m := range []mark{unit, box} {
		for _, line := range m.since(t) {
			if !strings.HasPrefix(line, "200 ") {
				t.Errorf("%s: while a member is healthy the agent sees %s", m.file, line)
			}
		}
	}
	placeholdersOnly(t, begun)
	recorded(t, map[string]string{"KIND": "cred_failover", "POOL": "openai", "MEMBER": "first"})

	spend(t, "second", 45*time.Second)
	eventually(t, "exhaustion", func() string {
		if got := kinds(t, seq, "pool_exhausted"); len(got) == 0 {
			return "not exhausted"
		}
		return ""
	})
	if said, status := hermes(t, "ask", url); status != 0 || said != "429" {
		t.Errorf("exhausted: %d %s", status, said)
	}
	if said, status := hermes(t, "ask", url); status != 75 {
		t.Errorf("hermes has not latched: %d %s", status, said)
	}
	eventually(t, "reset", func() string {
		got := kinds(t, seq, "pool_recovered", "auth_reset", "auth_reset_failed")
		if slices.Equal(got, []string{"pool_recovered", "auth_reset"}) {
			return ""
		}
		return fmt.Sprint(got)
	})
	if said, status := hermes(t, "ask", url); status != 0 || said != "200" {
		t.Errorf("after the reset: %d %s", status, said)
	}
	if got := kinds(t, seq, "pool_exhausted", "pool_recovered", "auth_reset"); !slices.Equal(got, []string{"pool_exhausted", "pool_recovered", "auth_reset"}) {
		t.Errorf("%q, want each once", got)
	}
	owner, _ := try("ctr", "task", "exec", "--exec-id", "stat", "boxed", "/bin/stat", "-c", "%u:%g", "/home/agent/.hermes/auth.json")
	if owner != "10000:10000" {
		t.Errorf("hermes' file belongs to %s", owner)
	}
	placeholdersOnly(t, begun)
	run(t, "sluice", "audit", "verify")
}

// slice starts a unit inside the slice that the examples attach, by the drop-in that the package brings.
func slice(t *testing.T) {
	write(t, "/etc/systemd/system/agents.slice", read(t, examples+"agents.slice"))
	write(t, "/etc/systemd/system/sliced.service.d/sluice.conf", read(t, examples+"in-agents-slice.conf"))
	write(t, "/etc/systemd/system/sliced.service", "[Service]\nType=oneshot\nExecStart=/root/sluice/fetch "+
		api+"/v1/models 'Authorization: Bearer "+placeholder+"'\nStandardOutput=file:/var/log/sliced.log\n")
	run(t, "systemctl", "daemon-reload")
	seq := lastArrival(t)
	run(t, "systemctl", "start", "sliced")
	attached(t, "agents.slice")
	if said := read(t, "/var/log/sliced.log"); !strings.HasPrefix(said, "200 ") || !intercepted(said) {
		t.Errorf("the unit in the slice got %s", said)
	}
	placeholdersOnly(t, seq)
	// The slice is not for the rest of the story.
	for _, one := range ask[[]target](t, "targets") {
		if one.Unit == "agents.slice" {
			run(t, "sluice", "detach", one.ID)
		}
	}
	run(t, "systemctl", "stop", "agents.slice")
	for _, name := range []string{"agents.slice", "sliced.service", "sliced.service.d"} {
		if err := os.RemoveAll("/etc/systemd/system/" + name); err != nil {
			t.Error(err)
		}
	}
	run(t, "systemctl", "daemon-reload")
}
