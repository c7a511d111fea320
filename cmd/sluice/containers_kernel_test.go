package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// modelsURL is the smallest request there is.
const modelsURL = "https://api.openai.com/v1/models"

// targets are what the daemon has.
func (h *house) targets() []api.Target {
	h.t.Helper()
	var all []api.Target
	if err := json.Unmarshal([]byte(h.sluice("", "targets", "-o", "json")), &all); err != nil {
		h.t.Fatal(err)
	}
	return all
}

// try runs a command of the operator's that may fail, and returns what it said of that.
func (h *house) try(args ...string) (string, error) {
	h.t.Helper()
	var said strings.Builder
	if status := h.operate(io.Discard, &said, "", args...); status != exitDone {
		return said.String(), statusError{status}
	}
	return said.String(), nil
}

// until waits for what the daemon does by itself.
func (h *house) until(what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(startLimit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("not in time: %s", what)
		}
	}
}

// state is the state of the only target.
func (h *house) state() api.TargetState {
	h.t.Helper()
	all := h.targets()
	if len(all) != 1 {
		h.t.Fatalf("targets: %+v", all)
	}
	return all[0].State
}

// looping is a container whose command asks again and again, from its first moment on. It trusts nobody but whom
// the covers of its bundle say, and by those that it has read at its first answer until it ends.
func (w *ward) looping(name string) *containerbox.Container {
	w.t.Helper()
	hosts, err := os.ReadFile(filepath.Join(w.dir, "hosts"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("roots.pem", "")
	return w.box.Create(name, containerbox.ContainerOptions{
		Args: []string{containerbox.Fetch, "-times", "0", "-every", "5ms", modelsURL}, NetNS: w.pair.Agent, Hosts: string(hosts),
		Mounts: map[string]string{"/etc/ssl/certs/ca-certificates.crt": filepath.Join(w.dir, "roots.pem")}, ReadOnly: true,
	})
}

// TestContainerUnderLoad restarts a container five times, and the daemon in between,
// while it asks without a pause: each request that is answered went through sluice.
func TestContainerUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWard(t, []simulator.Credential{{Name: "first", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	c := w.looping("loop")
	id := strings.TrimSpace(w.sluice("", "attach", "--container", "loop", "--namespace", w.box.Namespace))
	if got := w.targets(); len(got) != 1 || got[0].Id != id || got[0].State != "waiting" || got[0].Container != "loop" ||
		got[0].Namespace != w.box.Namespace || got[0].Runtime != "containerd" {
		t.Fatalf("targets: %+v", got)
	}
	answers := func() int { return strings.Count(c.Output(), "\n200 ") }
	c.Start()
	for round := range 5 {
		before := answers()
		w.until(fmt.Sprintf("round %d: 20 answers", round), func() bool { return answers() >= before+20 })
		if got := w.targets(); got[0].State != "attached" || got[0].Cgroup != c.Cgroup() || got[0].Id != id {
			t.Errorf("round %d: %+v", round, got)
		}
		if round == 3 {
			w.daemon.kill()
			c.Restart() // its new cgroup carries no programs
			before := strings.Count(c.Output(), "refused")
			w.until("connects are refused", func() bool { return strings.Count(c.Output(), "refused") >= before+20 })
			w.start()
			continue
		}
		c.Restart()
	}
	c.Stop()
	w.until("the target waits", func() bool { return w.state() == "waiting" })
	refused := 0
	for line := range strings.Lines(c.Output()) {
		switch {
		case strings.HasPrefix(line, "200 \"sluice"):
		case strings.HasPrefix(line, "error: ") && strings.Contains(line, "refused"):
			refused++ // no daemon ran
		case strings.HasPrefix(line, "error: ") && !strings.Contains(line, "certificate"):
		default: // a certificate would be the upstream's own: past sluice
			t.Errorf("the client said %q", line)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused while no daemon ran")
	}
	for _, e := range w.sim.Journal().Entries() {
		if e.Credential != "first" || len(e.Presented) != 1 {
			t.Errorf("%s %s was sent with %+v", e.Method, e.Path, e.Presented)
		}
	}
	w.sluice("", "detach", id)
	if got := w.targets(); len(got) != 0 {
		t.Errorf("detached: %+v", got)
	}
}

// TestContainersByCommand goes through what people see: errors that say what to do, and
// nothing left of what failed.
func TestContainersByCommand(t *testing.T) {
	t.Parallel()
	w := newWard(t, nil)
	c := w.box.Run("agent", containerbox.ContainerOptions{Labels: map[string]string{"app": "agent"}})
	w.box.Create("agency", containerbox.ContainerOptions{})
	for _, tt := range []struct {
		args []string
		says []string
	}{
		{[]string{"--container", "nobody"}, []string{"no such container", w.box.Socket, w.box.Namespace}},
		{[]string{"--container", "agen"}, []string{"ambiguous", "agent", "agency", "--namespace"}},
		{[]string{"--container", "agent", "--namespace", "other"}, []string{"no such container", "namespaces other"}},
		{[]string{"--selector", "agent"}, []string{"KEY=VALUE"}},
		{[]string{"--unit", "no-such-agent"}, []string{"no-such-agent.service", "does not run"}},
	} {
		said, err := w.try(append([]string{"attach"}, tt.args...)...)
		if err == nil {
			t.Errorf("%q: no error", tt.args)
		}
		for _, want := range tt.says {
			if !strings.Contains(said, want) || strings.Count(said, "\n") != 1 {
				t.Errorf("%q: said %q, without %q", tt.args, said, want)
			}
		}
		if got := w.targets(); len(got) != 0 {
			t.Errorf("%q left %+v", tt.args, got)
		}
	}
	id, _, _ := strings.Cut(w.sluice("", "attach", "--selector", "app=agent"), "\n") // then, that no pool serves it
	w.until("the selector's container is attached", func() bool { return len(w.targets()) == 2 })
	table := w.sluice("", "targets")
	for _, want := range []string{"watching", "containers with app=agent", "containerd agent (namespace " + w.box.Namespace + "), by app=agent", c.Cgroup()} {
		if !strings.Contains(table, want) {
			t.Errorf("the table has no %q:\n%s", want, table)
		}
	}
	for _, x := range w.targets() {
		if x.Parent == id {
			if said, err := w.try("detach", x.Id); err == nil || !strings.Contains(said, id) {
				t.Errorf("detach of a selector's container: %q, %v", said, err)
			}
		}
	}
	w.box.KillDaemon()
	if said, err := w.try("attach", "--container", "agent"); err == nil || !strings.Contains(said, "[containers]") {
		t.Errorf("without containerd: %q, %v", said, err)
	}
	w.sluice("", "detach", id)
	if got := w.targets(); len(got) != 0 {
		t.Errorf("left: %+v", got)
	}
}

// TestUnitByCommand attaches a unit by its name, without systemd by its cgroup.
func TestUnitByCommand(t *testing.T) {
	t.Parallel()
	h := newEmptyHouse(t, nil, nil)
	name := fmt.Sprintf("by-name-%d", os.Getpid())
	unit := filepath.Join(kerneltest.Cgroup(t), name+".service")
	if err := os.Mkdir(unit, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := kerneltest.Command(t, unit, nil, "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	id, _ := h.apart("attach", "--unit", name)
	got := h.targets()
	if len(got) != 1 || got[0].Id != strings.TrimSpace(id) || got[0].Unit != name+".service" || got[0].Cgroup != unit ||
		got[0].State != "attached" || attachedPrograms(t, unit) == 0 {
		t.Errorf("targets: %+v", got)
	}
	h.sluice("", "detach", strings.TrimSpace(id))
	if n := attachedPrograms(t, unit); n != 0 {
		t.Errorf("%d programs are left", n)
	}
}

// TestUnitAttachedByItsOwnStart is the drop-in attached.conf: what comes before the unit's program attaches the unit, from within its
// cgroup, so that the program's first connect is intercepted. Without a daemon it fails, and the program is not started.
func TestUnitAttachedByItsOwnStart(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	name := fmt.Sprintf("by-start-%d.service", os.Getpid())
	unit := filepath.Join(kerneltest.Cgroup(t), name)
	start := func() (string, error) {
		t.Helper()
		if err := os.Mkdir(unit, 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.Remove(unit); err != nil {
				t.Error(err)
			}
		}()
		command := h.agent(nil, "sh", "-ec", h.path+` attach --unit `+name+` 2>&1 >/dev/null
			`+h.path+` ca show >`+filepath.Join(h.dir, "agents.pem")+`
			exec curl -s --cacert `+filepath.Join(h.dir, "agents.pem")+` -H "Authorization: Bearer placeholder" `+modelsURL)
		dir, err := os.Open(unit)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		command.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		out, err := command.CombinedOutput()
		return string(out), err
	}
	seq := h.sim.Journal().Last()
	for _, when := range []string{"for the first time", "again"} {
		said, err := start()
		if err != nil || !strings.Contains(said, `"object"`) {
			t.Errorf("started %s: %v: %s", when, err, said)
		}
		if strings.Contains(said, "does not trust the CA: sluice") {
			t.Errorf("the command that attaches is taken for an agent: %s", said)
		}
	}
	h.seen(seq, 2)
	h.daemon.kill()
	if said, err := start(); err == nil || !strings.Contains(said, "serve") {
		t.Errorf("without a daemon: %v: %s", err, said)
	}
	h.seen(seq, 2)
}
