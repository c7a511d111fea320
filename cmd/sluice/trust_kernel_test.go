package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/control/api"
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
	t.Parallel()
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
	t.Run("case_52_container_restart", func(t *testing.T) {
		c.Restart()
		w.until("it is attached again", func() bool { return w.state() == "attached" })
		asks("restarted", modelsURL, answered)
	})

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

// TestAFirstRequestTrusts: what a container's environment names is covered before its command runs, whose first and
// only action is a request.
func TestAFirstRequestTrusts(t *testing.T) {
	t.Parallel()
	w := newWard(t, []simulator.Credential{{Name: "first", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	hosts, err := os.ReadFile(filepath.Join(w.dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("own.pem", string(imageRoot))
	c := w.box.Create("agent", containerbox.ContainerOptions{
		Args: []string{containerbox.Fetch, modelsURL}, NetNS: w.pair.Agent, Hosts: string(hosts), ReadOnly: true,
		Env: []string{"SSL_CERT_FILE=/etc/own.pem"}, Mounts: map[string]string{"/etc/own.pem": filepath.Join(w.dir, "own.pem")},
	})
	id := strings.TrimSpace(w.sluice("", "attach", "--container", "agent", "--namespace", w.box.Namespace))
	const starts = 5
	for range starts {
		c.Start()
		c.Wait()
		c.Stop()
	}
	if n := strings.Count(c.Output(), "200 "); n != starts {
		t.Errorf("%d of %d were answered:\n%s", n, starts, c.Output())
	}
	w.sluice("", "detach", id)
}

// apart runs a command of the operator's and tells what it prints, and where.
func (h *house) apart(args ...string) (stdout, stderr string) {
	h.t.Helper()
	var out, said bytes.Buffer
	if status := h.operate(&out, &said, "", args...); status != exitDone {
		h.t.Fatalf("sluice %q: status %d: %s", args, status, said.String())
	}
	return out.String(), said.String()
}

// nodeMounts are this machine's Node and what it is linked with, by their path in a container.
func nodeMounts(t *testing.T) map[string]string {
	t.Helper()
	needs(t, "node", "ldd")
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal(err)
	}
	if node, err = filepath.EvalSymlinks(node); err != nil {
		t.Fatal(err)
	}
	mounts := map[string]string{"/usr/bin/node": node}
	linked, err := exec.Command("ldd", node).CombinedOutput()
	if err != nil {
		t.Fatalf("ldd: %v: %s", err, linked)
	}
	for _, library := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(linked), -1) {
		real, err := filepath.EvalSymlinks(library[1])
		if err != nil {
			t.Fatal(err)
		}
		mounts[library[1]] = real
	}
	return mounts
}

// TestWhoDoesNotTrustIsNamed: a Node that ran before is named, with the way out, by everything that tells of targets;
// one that is started that way is answered and not named.
func TestWhoDoesNotTrustIsNamed(t *testing.T) {
	t.Parallel()
	w := newWard(t, []simulator.Credential{{Name: "first", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	hosts, err := os.ReadFile(filepath.Join(w.dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	w.write("roots.pem", "")
	mounts := nodeMounts(t)
	mounts[bundle] = filepath.Join(w.dir, "roots.pem")
	asking := func(name string, env ...string) *containerbox.Container {
		return w.box.Create(name, containerbox.ContainerOptions{
			NetNS: w.pair.Agent, Hosts: string(hosts), Mounts: mounts, Env: env,
			Args: []string{"/usr/bin/node", "-e", `process.on("SIGTERM", () => process.exit(0));
				require("https").get("` + modelsURL + `", r => console.log("answered", r.statusCode)).on("error", e => console.log("error", e.code));
				setInterval(() => {}, 1000)`},
		})
	}
	c := asking("agent")
	c.Start()
	w.until("it has asked", func() bool { return strings.Contains(c.Output(), "error ") })
	who := fmt.Sprintf("node (pid %d) has its roots built in", c.PID())
	const way = "start it again with NODE_EXTRA_CA_CERTS=" + bundle

	id, said := w.apart("attach", "--container", "agent", "--namespace", w.box.Namespace)
	if id = strings.TrimSpace(id); strings.Contains(id, " ") || !strings.Contains(said, who) || !strings.Contains(said, way) {
		t.Errorf("attach: %q, %q", id, said)
	}
	if _, said := w.apart("targets"); !strings.Contains(said, id) || !strings.Contains(said, who) || !strings.Contains(said, way) {
		t.Errorf("targets: %q", said)
	}
	want := api.Untrusting{Pid: c.PID(), Process: "node", Reason: "has its roots built in", WayOut: way}
	if got := w.targets(); len(got) != 1 || len(got[0].Untrusting) != 1 || got[0].Untrusting[0] != want {
		t.Errorf("targets: %+v", got)
	}
	var attached api.AttachedTarget
	out, said := w.apart("attach", "--container", "agent", "-o", "json")
	if err := json.Unmarshal([]byte(out), &attached); err != nil || said != "" || len(attached.Untrusting) != 1 || attached.Untrusting[0] != want {
		t.Errorf("attach: %v, %s, %q", err, out, said)
	}
	cmd := exec.Command(w.path, "doctor", "--state-dir", filepath.Join(w.dir, "no-state"))
	cmd.Env = []string{"SLUICE_SOCKET=" + w.socket, quickExit}
	examined, err := cmd.CombinedOutput() // this host may fail in something else
	if !regexp.MustCompile(`(?m)^WARN trust: in .*agent.*` + regexp.QuoteMeta(who) + `.*\n +` + regexp.QuoteMeta(way) + "$").Match(examined) {
		t.Errorf("doctor: %v: %s", err, examined)
	}
	c.Stop()
	w.until("the target waits", func() bool { return w.state() == "waiting" })
	if got := w.targets(); len(got[0].Untrusting) != 0 {
		t.Errorf("it has ended: %+v", got)
	}
	w.sluice("", "detach", id)

	told := asking("told", "NODE_EXTRA_CA_CERTS="+bundle)
	id, said = w.apart("attach", "--container", "told", "--namespace", w.box.Namespace)
	if said != "" {
		t.Errorf("it does not run: %q", said)
	}
	told.Start()
	w.until("it was answered", func() bool { return told.Output() != "" })
	if got := w.targets(); told.Output() != "answered 200\n" || len(got) != 1 || len(got[0].Untrusting) != 0 {
		t.Errorf("%q, %+v", told.Output(), got)
	}
	w.sluice("", "detach", strings.TrimSpace(id))
}
