package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// settleTime is how long the kernel, and the tests beside this one, may take to let go.
const settleTime = time.Minute

// resident starts a process in a cgroup, with namespaces of its own.
func resident(t *testing.T, cgroup string) (pid int) {
	t.Helper()
	cmd := exec.Command("unshare", "--net", "--mount", "sh", "-c", `ip link set lo up && echo $$ > "$0"/cgroup.procs && echo there && exec sleep 600`, cgroup)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ended, err := begin(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return cmd.Process.Pid
}

// TestRemovalLeavesNothing attaches a run, a cgroup and a container, takes everything away again, with a daemon and without
// one, and compares what the kernel lists with what it listed before.
func TestRemovalLeavesNothing(t *testing.T) {
	needs(t, "nft", "tc", "bpftool", "ss", "unshare")
	w := newWard(t, []simulator.Credential{{Name: "first", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	m := managed(w.house)
	w.write("roots.pem", string(w.sim.CA()))
	c := w.box.Run("agent", containerbox.ContainerOptions{
		NetNS: w.pair.Agent, Mounts: map[string]string{"/etc/ssl/certs/ca-certificates.crt": filepath.Join(w.dir, "roots.pem")},
	})
	dir := kerneltest.Cgroup(t)
	pid := resident(t, dir)
	around := surroundings{
		namespaces: []string{hostNetNS, w.pair.Agent, w.pair.Server, fmt.Sprintf("/proc/%d/ns/net", pid)},
		processes:  []int{os.Getpid(), c.PID(), pid}, pins: filepath.Dir(w.pins()),
		dirs: []string{filepath.Dir(w.pins()), "/run/sluice", "/sys/fs/bpf/sluice"},
	}
	m.stop()
	before := take(t, around)
	for _, tt := range []struct {
		name   string
		remove func()
	}{
		{"with a daemon", func() {
			w.sluice("", "detach", "--all")
			eventually(t, "the listeners are let go", func() bool { return len(m.names("netns-")) == 0 })
			// A daemon that runs holds its programs and maps, a run its cgroup, and nothing is attached.
			for _, what := range settled(t, around, before, "program ", "map ", "cgroup ", "file "+w.pins()) {
				t.Errorf("left while the daemon runs: %s", what)
			}
			m.stop()
			m.release() // as for a unit that is stopped
		}},
		{"without a daemon", func() {
			w.daemon.kill()
			m.release()
			w.sluice("", "detach", "--all", "--config", filepath.Join(w.dir, "config.toml"), "--state-dir", filepath.Join(w.dir, "state"))
		}},
	} {
		m.start()
		run := w.newProber()
		w.sluice("", "attach", "--cgroup", dir)
		w.sluice("", "attach", "--container", "agent", "--namespace", w.box.Namespace)
		if said, _ := run.connect(); said != "connected" {
			t.Fatalf("%s: an agent's connect is %s", tt.name, said)
		}
		m.stop() // a daemon holds what it has pinned: to see that the census sees it
		there := strings.Join(take(t, around).left(before), "\n")
		for _, what := range []string{"link ", "program ", "map ", fmt.Sprintf("of process %d", c.PID()), "/links/", "ss in "} {
			if !strings.Contains(there, what) {
				t.Errorf("%s: with three targets the census has no %q: it proves nothing", tt.name, what)
			}
		}
		m.start()

		run.endLater(tt.remove)
		for _, what := range settled(t, around, before) {
			t.Errorf("%s: left is %s", tt.name, what)
		}
		if len(m.names("netns-")) > 0 {
			t.Errorf("%s: stored are %q", tt.name, m.names("netns-"))
		}
	}
}

// settled is what is left besides what begins with one of some words, once the kernel is done with what was given up: other tests'
// links are held by nobody for a moment before they are gone, too.
func settled(t *testing.T, around surroundings, before census, but ...string) []string {
	t.Helper()
	for deadline := time.Now().Add(settleTime); ; time.Sleep(200 * time.Millisecond) {
		left := slices.DeleteFunc(take(t, around).left(before), func(what string) bool {
			return slices.ContainsFunc(but, func(word string) bool { return strings.HasPrefix(what, word) })
		})
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// endLater removes everything while the run goes on, and ends the run then: it cleans up by itself.
func (p *prober) endLater(remove func()) {
	remove()
	p.end()
}
