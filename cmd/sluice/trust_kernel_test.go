package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/scripts/containerbox"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// mountsIn are how many mounts a container has.
func mountsIn(t *testing.T, c *containerbox.Container) int {
	t.Helper()
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(mounts), "\n")
}

// TestARunningContainerTrusts what sluice shows it, with nothing changed in its image, its
// command or its environment: a program that starts after the attach, after a restart and after
// a further host was bound. Detached, it has the mounts that it had.
func TestARunningContainerTrusts(t *testing.T) {
	w := newWard(t, []simulator.Credential{{Name: "first", Secret: openaiFirst}, {Name: "ant", Secret: anthropicFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	hosts, err := os.ReadFile(filepath.Join(w.dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("roots.pem", "") // an image's own bundle: its roots are of no use here
	c := w.box.Run("agent", containerbox.ContainerOptions{
		NetNS: w.pair.Agent, Hosts: string(hosts),
		Mounts: map[string]string{"/etc/ssl/certs/ca-certificates.crt": filepath.Join(w.dir, "roots.pem")},
	})
	asks := func(when, url string, want string) {
		t.Helper()
		if said, _ := c.Exec(0, containerbox.Fetch, url); !strings.Contains(said, want) {
			t.Errorf("%s: %s", when, said)
		}
	}
	const answered, strange = "200 ", "certificate"
	asks("before", modelsURL, strange)
	before := mountsIn(t, c)
	id := strings.TrimSpace(w.sluice("", "attach", "--container", "agent", "--namespace", w.box.Namespace))
	asks("attached", modelsURL, answered)
	covered := mountsIn(t, c)
	w.sluice("", "attach", "--container", "agent", "--namespace", w.box.Namespace)
	if now := mountsIn(t, c); now != covered || covered <= before {
		t.Errorf("attached twice: %d mounts, were %d, and %d before", now, covered, before)
	}
	c.Restart()
	w.until("it is attached again", func() bool { return w.state() == "attached" })
	asks("restarted", modelsURL, answered)

	w.sluice(anthropicFirst, "cred", "add", "c1")
	w.sluice("", "pool", "create", "claude", "--members", "c1", "--provider", "anthropic")
	asks("a further host", "https://api.anthropic.com/v1/models", answered)
	if now := mountsIn(t, c); now != covered {
		t.Errorf("a further host: %d mounts, want %d", now, covered)
	}
	w.daemon.kill()
	w.start()
	asks("another daemon", modelsURL, answered)
	w.sluice("", "detach", id)
	if now := mountsIn(t, c); now != before {
		t.Errorf("detached: %d mounts, were %d", now, before)
	}
	asks("detached", modelsURL, strange)
}
