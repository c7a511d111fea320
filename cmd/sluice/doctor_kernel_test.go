package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// doctor are its findings; it exits 1 if one of them is a failure.
func (h *house) doctor() []finding {
	h.t.Helper()
	cmd := exec.Command(h.path, "doctor", "-o", "json", "--config", filepath.Join(h.dir, "config.toml"), "--state-dir", filepath.Join(h.dir, "state"))
	cmd.Env = []string{"SLUICE_SOCKET=" + h.socket, quickExit}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	var all []finding
	if err := json.Unmarshal(out, &all); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	return all
}

// cgroupOf is the kernel's id of a cgroup.
func cgroupOf(t *testing.T, dir string) uint64 {
	t.Helper()
	id, err := cgroup.ID(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func said(all []finding, check string, words ...string) bool {
	return slices.ContainsFunc(all, func(f finding) bool {
		return f.Check == check && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(f.State+" "+f.Detail+" "+f.Mend, w) })
	})
}

// TestDoctorTellsTheTruth: what the kernel says counts, with pins and a daemon that know better, and without a daemon.
func TestDoctorTellsTheTruth(t *testing.T) {
	t.Parallel()
	needs(t, "bpftool")
	w := newWard(t, nil)
	weak := w.box.Run("weak", containerbox.ContainerOptions{NetNS: w.pair.Agent, Spec: []oci.SpecOpts{oci.WithCapabilities([]string{"CAP_NET_RAW"})}})
	strong := w.box.Run("strong", containerbox.ContainerOptions{NetNS: w.pair.Agent, UID: 1000, Spec: []oci.SpecOpts{oci.WithCapabilities(nil), oci.WithNoNewPrivileges}})
	for _, name := range []string{"weak", "strong"} {
		w.sluice("", "attach", "--container", name, "--namespace", w.box.Namespace)
	}
	all := w.doctor()
	pid := strconv.Itoa(weak.PID())
	if !said(all, "agents", "WARN", "weak", "CAP_NET_RAW", "process "+pid, "frames", "--cap-drop NET_RAW") {
		t.Errorf("of the weak container: %+v", all)
	}
	if said(all, "agents", "strong", "CAP_") || said(all, "agents", "strong", "namespace:") {
		t.Errorf("of the strong container: %+v", all)
	}
	if !said(all, "targets", "OK", "2, all in force") || !said(all, "pins", "OK", "2 cgroups closed") {
		t.Errorf("of what is attached: %+v", all)
	}
	// With the daemon stopped nothing mends it, and what was detached is detached.
	var pinDir string
	config, err := os.ReadFile(filepath.Join(w.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(config), "\n") {
		if value, ok := strings.CutPrefix(line, "pin_dir = "); ok {
			pinDir = strings.Trim(value, `"`)
		}
	}
	w.daemon.kill()
	for _, target := range []*containerbox.Container{weak} {
		dir := filepath.Join(pinDir, "links", strconv.FormatUint(cgroupOf(t, target.Cgroup()), 10))
		pins, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(pins) == 0 {
			t.Fatalf("no pins below %s: %v", dir, err)
		}
		for _, pin := range pins {
			if out, err := exec.Command("bpftool", "link", "detach", "pinned", pin).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	gone := cgroupOf(t, strong.Cgroup())
	strong.Stop() // its cgroup goes
	all = w.doctor()
	for _, id := range []uint64{cgroupOf(t, weak.Cgroup()), gone} {
		if !said(all, "pins", "WARN", strconv.FormatUint(id, 10), "of no use") {
			t.Errorf("of cgroup %d: %+v", id, all)
		}
	}
	w.start() // sweeps the one, and mends the other
	w.until("only the live one is pinned", func() bool { return said(w.doctor(), "pins", "OK", "1 cgroup closed") })
	if !said(w.doctor(), "targets", "WARN", "strong", "is not there") {
		t.Errorf("of the stopped container: %+v", w.doctor())
	}
	if log := w.daemon.log.String(); !strings.Contains(log, strconv.FormatUint(gone, 10)) || !strings.Contains(log, "former run") {
		t.Errorf("the sweep is not in the log: %s", log)
	}
}

// TestAttachBelowAnExclusiveProgram: the person who attaches is told whose program it is, and how to get rid of it.
func TestAttachBelowAnExclusiveProgram(t *testing.T) {
	t.Parallel()
	needs(t, "bpftool")
	h := newHouse(t, nil)
	parent := kerneltest.Cgroup(t)
	child := filepath.Join(parent, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "somebodys", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	pin := filepath.Join(kerneltest.BPFFS(t), "program")
	if err := program.Pin(pin); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("bpftool", "cgroup", "attach", parent, "connect4", "pinned", pin).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	told, err := h.try("attach", "--cgroup", child)
	for _, want := range []string{child, parent + " carries an exclusive program", "\"somebodys\"", "bpftool cgroup detach " + parent + " connect4 id "} {
		if err == nil || !strings.Contains(told, want) || strings.Count(told, "\n") != 1 {
			t.Errorf("%v: %q, without %q", err, told, want)
		}
	}
	if got := h.targets(); len(got) != 0 {
		t.Errorf("left: %+v", got)
	}
	// The way out that it gives is one.
	_, out, _ := strings.Cut(told, "('bpftool ")
	out, _, _ = strings.Cut(out, "')")
	if said, err := exec.Command("bpftool", strings.Fields(out)...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", out, err, said)
	}
	h.sluice("", "attach", "--cgroup", child)
}

// TestTargetsTellTheTruth: somebody detaches a link under the daemon's eyes.
func TestTargetsTellTheTruth(t *testing.T) {
	t.Parallel()
	needs(t, "bpftool")
	w := newWard(t, nil)
	c := w.box.Run("agent", containerbox.ContainerOptions{NetNS: w.pair.Agent})
	w.sluice("", "attach", "--container", "agent", "--namespace", w.box.Namespace)
	out, err := exec.Command("bpftool", "-j", "cgroup", "show", c.Cgroup()).Output()
	if err != nil {
		t.Fatal(err)
	}
	var shown []struct {
		ID   int    `json:"id"`
		Name string `json:"name"`
	}
	if err := json.Unmarshal(out, &shown); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(shown, func(p struct {
		ID   int    `json:"id"`
		Name string `json:"name"`
	},
	) bool {
		return p.Name == "sluice_connect4"
	})
	if i < 0 {
		t.Fatalf("shown: %+v", shown)
	}
	out, err = exec.Command("bpftool", "-j", "link", "show").Output()
	if err != nil {
		t.Fatal(err)
	}
	var links []struct {
		ID   int `json:"id"`
		Prog int `json:"prog_id"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Prog == shown[i].ID {
			if out, err := exec.Command("bpftool", "link", "detach", "id", strconv.Itoa(l.ID)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	// The daemon may have looked by now; what it did is in its log then.
	table := w.sluice("", "targets")
	if !strings.Contains(table, "not_in_force") && !strings.Contains(w.daemon.log.String(), "mended") {
		t.Errorf("targets: %s", table)
	}
	w.until("it is put back by itself, and the log says so", func() bool {
		log := w.daemon.log.String()
		return w.state() == "attached" && strings.Contains(log, "mended") && strings.Contains(log, "connect4")
	})
}
