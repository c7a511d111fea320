//go:build guest

package guest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestKernel is what has to hold on every kernel. Where something is missing that sluice needs, doctor names it with the kernel
// that has it, and an attach fails in whole. Elsewhere a unit is attached, its requests get real keys, a key that runs out
// is replaced, and a removal leaves nothing in the kernel.
func TestKernel(t *testing.T) {
	t.Logf("Linux %s", run(t, "uname", "-r"))
	build(t)
	run(t, "dpkg", "-i", files+"/this.deb")
	doctor, status := try("sluice", "doctor")
	t.Logf("sluice doctor:\n%s", doctor)
	var lacking []string
	for line := range strings.Lines(doctor) {
		if !regexp.MustCompile(`^((OK  |WARN|FAIL) \S|     \S)`).MatchString(line) {
			t.Errorf("doctor has a line of another form: %q", line)
		}
		if strings.HasPrefix(line, "FAIL kernel: ") {
			lacking = append(lacking, line)
		}
	}
	configure(t)
	if len(lacking) > 0 {
		write(t, files+"/lacking", strings.Join(lacking, ""))
		if status == 0 {
			t.Error("doctor fails something, and ends with status 0")
		}
		if !strings.Contains(doctor, "boot Linux ") && !strings.Contains(doctor, "cmpxchg16b") {
			t.Errorf("doctor does not say which kernel or processor would do:\n%s", doctor)
		}
		run(t, "systemctl", "start", "agent")
		said, status := try("sluice", "attach", "--unit", "agent.service")
		t.Logf("sluice attach: %d %s", status, said)
		if status == 0 {
			t.Errorf("attached, although the kernel lacks %q", lacking)
		}
		if !regexp.MustCompile(`not supported by this kernel \((needs Linux |.*cmpxchg16b)`).MatchString(said) {
			t.Errorf("it does not say what the kernel lacks, and what has it: %s", said)
		}
		if targets := ask[[]target](t, "targets"); len(targets) > 0 {
			t.Errorf("refused, and yet there is %v", targets)
		}
		// The agent goes on as before.
		eventually(t, "the agent's requests go where they are sent", func() string {
			if lines := (mark{file: agentLog}).since(t); len(lines) == 0 || intercepted(lines[len(lines)-1]) {
				return fmt.Sprintf("%q", lines)
			}
			return ""
		})
		gone(t)
		return
	}
	if status != 0 {
		t.Errorf("doctor: exit status %d", status)
	}
	attachUnit(t)
	m, seq := markOf(agentLog), lastEvent(t)
	spend(t, "first", time.Minute)
	eventually(t, "failover", func() string {
		if len(kinds(t, seq, "cred_failover")) == 0 {
			return "no failover"
		}
		return ""
	})
	served(t, agentLog, 3)
	if good, refused := m.sound(t); good == 0 || len(refused) > 0 {
		t.Errorf("%d good answers, refused %q", good, refused)
	}
	gone(t)
	run(t, "systemctl", "stop", "agent")
}

// gone removes the package and looks whether anything of it is left in the kernel.
func gone(t *testing.T) {
	t.Helper()
	run(t, "dpkg", "-r", "sluice")
	for _, line := range traces(t) {
		if strings.Contains(line, "sluice") && !strings.HasPrefix(line, "file ") {
			t.Errorf("left in the kernel: %s", line)
		}
	}
}
