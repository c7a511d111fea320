//go:build guest

package guest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hurry is between two requests of the agent while the daemon is restarted and replaced: there is hardly a moment without one.
const hurry = 50 * time.Millisecond

// load has the agent ask again as soon as it is answered, from now on. It is at it already if the step before was, for each start of a
// unit takes an emulated machine long.
func load(t *testing.T) {
	t.Helper()
	pace(t, hurry)
	attached(t, "agent.service")
	served(t, agentLog, 2)
}

// pace starts the agent with a pause between two requests, if it has another one.
func pace(t *testing.T, pause time.Duration) {
	t.Helper()
	const file = "/etc/systemd/system/agent.service"
	wanted := fmt.Sprintf(agentUnit, pause)
	if read(t, file) == wanted {
		return
	}
	write(t, file, wanted)
	run(t, "systemctl", "daemon-reload")
	run(t, "systemctl", "restart", "agent")
}

// keepsListeners reports whether the unit has systemd keep the daemon's listeners over a restart.
func keepsListeners(t *testing.T) bool {
	t.Helper()
	return property(t, "sluice", "FileDescriptorStoreMax") != "0"
}

// judge holds what became of a loaded agent's requests against what the unit promises: nothing goes around sluice, and with
// listeners that are kept nothing is refused either.
func judge(t *testing.T, m mark, seq uint64, what string) {
	t.Helper()
	good, refused := m.sound(t)
	t.Logf("%s: %d good answers, %d refused connects", what, good, len(refused))
	if good == 0 {
		t.Error("no good answer at all")
	}
	for _, line := range refused {
		if keepsListeners(t) {
			t.Errorf("lost: %s", line)
		} else if !strings.Contains(line, "connection refused") && !strings.Contains(line, "EOF") && !strings.Contains(line, "reset by peer") {
			t.Errorf("neither served nor refused at once: %s", line)
		}
	}
	placeholdersOnly(t, seq)
}

// restart restarts the daemon under load.
func restart(t *testing.T) {
	load(t)
	m, seq := markOf(agentLog), lastArrival(t)
	const times = 3
	for range times {
		before := pid(t)
		run(t, "systemctl", "restart", "sluice")
		if pid(t) == before {
			t.Fatal("it is the same process")
		}
		attached(t, "agent.service")
		served(t, agentLog, 3)
	}
	judge(t, m, seq, fmt.Sprintf("%d restarts", times))
	attached(t, "boxed")
	served(t, boxedLog, 1)
}

// kill ends the daemon without a word. Connects are refused at once, and systemd brings it back.
func kill(t *testing.T) {
	load(t)
	m, seq := markOf(agentLog), lastArrival(t)
	before := pid(t)
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "systemd starts it again", func() string {
		if now := property(t, "sluice", "MainPID"); now == "0" || now == fmt.Sprint(before) {
			return "MainPID " + now
		}
		return ""
	})
	attached(t, "agent.service")
	served(t, agentLog, 3)
	good, refused := m.sound(t)
	t.Logf("killed: %d good answers, %d refused connects", good, len(refused))
	placeholdersOnly(t, seq)
	served(t, boxedLog, 1)
}

// watchdog stops the daemon from answering, which systemd notices.
func watchdog(t *testing.T) {
	const dropIn = "/run/systemd/system/sluice.service.d/watchdog.conf"
	write(t, dropIn, "[Service]\nWatchdogSec=5s\n")
	run(t, "systemctl", "daemon-reload")
	run(t, "systemctl", "restart", "sluice")
	attached(t, "agent.service")
	m, seq := markOf(agentLog), lastArrival(t)
	before := pid(t)
	if err := syscall.Kill(before, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "systemd replaces a daemon that hangs", func() string {
		if now := property(t, "sluice", "MainPID"); now == "0" || now == fmt.Sprint(before) {
			return "MainPID " + now
		}
		return ""
	})
	if said := run(t, "journalctl", "-b", "-u", "sluice", "--no-pager", "-o", "cat"); !strings.Contains(said, "Watchdog timeout") {
		t.Errorf("it was not the watchdog:\n%s", said)
	}
	attached(t, "agent.service")
	served(t, agentLog, 3)
	m.sound(t)
	placeholdersOnly(t, seq)
	if err := os.RemoveAll("/run/systemd/system/sluice.service.d"); err != nil {
		t.Fatal(err)
	}
	run(t, "systemctl", "daemon-reload")
	run(t, "systemctl", "restart", "sluice")
	attached(t, "agent.service")
}

// reload reads the configuration again: what is right applies, a mistake changes nothing and is said.
func reload(t *testing.T) {
	const file = "/etc/sluice/config.toml"
	original, before := read(t, file), pid(t)
	m := markOf(agentLog)
	write(t, file, original+"\n[lgo]\nlevel = \"debug\"\n")
	try("systemctl", "reload", "sluice")
	eventually(t, "the mistake is in the unit's status", func() string {
		if said := property(t, "sluice", "StatusText"); !strings.Contains(said, "lgo") {
			return "StatusText " + said
		}
		return ""
	})
	write(t, file, strings.Replace(original, `#level = "info"`, `level = "debug"`, 1))
	run(t, "systemctl", "reload", "sluice")
	eventually(t, "the level is debug", func() string {
		// A client of the attached unit's that does not trust the CA is told of at that level.
		said, status := try("sh", "-c", "echo $$ >/sys/fs/cgroup/system.slice/agent.service/cgroup.procs && exec curl -sSv "+api)
		for _, record := range records(t) {
			if record["LEVEL"] == "DEBUG" {
				return ""
			}
		}
		return fmt.Sprintf("no record of that level, and curl ended with %d: %s", status, said)
	})
	write(t, file, original)
	run(t, "systemctl", "reload", "sluice")
	if now := pid(t); now != before {
		t.Errorf("a reload made process %d of %d", now, before)
	}
	served(t, agentLog, 1)
	if _, refused := m.sound(t); len(refused) > 0 {
		t.Errorf("a reload cost %q", refused)
	}
}

// credential hands the vault's identity to systemd, encrypted with the host's key, as docs/vault.md says.
func credential(t *testing.T) {
	const identity = "/var/lib/sluice/identity"
	if err := os.MkdirAll("/etc/credstore.encrypted", 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "systemd-creds", "encrypt", "--name=sluice.identity", identity, "/etc/credstore.encrypted/sluice.identity")
	run(t, "systemctl", "restart", "sluice")
	run(t, "shred", "-u", identity)
	run(t, "systemctl", "restart", "sluice")
	attached(t, "agent.service")
	served(t, agentLog, 2)
	if _, err := os.Stat(identity); !os.IsNotExist(err) {
		t.Errorf("%s is there (%v)", identity, err)
	}
}

// source has the daemon ask a command for a secret, which is the first process of a pid namespace under the unit's RestrictNamespaces=, too.
func source(t *testing.T) {
	const file, asked = "/etc/sluice/config.toml", "/run/asked"
	original := read(t, file)
	write(t, file, original+`
[secrets.command.print]
argv = ["/bin/sh", "-c", 'readlink /proc/self/ns/pid >`+asked+`; printf %s "$0"', "{ref}"]
refs = ["sk-proj-*"]
`)
	run(t, "systemctl", "restart", "sluice")
	run(t, "sluice", "cred", "add", "printed", "--from", "command:print:sk-proj-printed-0123456789abcdef")
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if theirs := strings.TrimSpace(read(t, asked)); theirs == ours || !strings.HasPrefix(theirs, "pid:") {
		t.Errorf("the command ran in %s, the system's is %s", theirs, ours)
	}
	run(t, "sluice", "cred", "remove", "printed")
	write(t, file, original)
	run(t, "systemctl", "restart", "sluice")
	attached(t, "agent.service")
	if err := os.Remove(asked); err != nil {
		t.Error(err)
	}
}
