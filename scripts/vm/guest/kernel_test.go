//go:build guest

package guest

import (
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
		if strings.HasPrefix(line, "FAIL kernel: ") {
			lacking = append(lacking, line)
		}
	}
	configure(t)
	if len(lacking) > 0 {
		if status == 0 {
			t.Error("doctor fails something, and ends with status 0")
		}
		if !strings.Contains(doctor, "boot Linux ") {
			t.Errorf("doctor does not say which kernel would do:\n%s", doctor)
		}
		run(t, "systemctl", "start", "agent")
		said, status := try("sluice", "attach", "--unit", "agent.service")
		t.Logf("sluice attach: %d %s", status, said)
		if status == 0 {
			t.Errorf("attached, although the kernel lacks %q", lacking)
		}
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
