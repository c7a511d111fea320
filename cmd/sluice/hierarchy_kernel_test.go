package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// hierarchies are how hosts mount cgroups, as a shell makes them in a mount namespace of its own. The kernel under test has one of
// them; what differs for sluice is what is mounted where.
func hierarchies() map[string]string {
	return map[string]string{
		"case_49_v2_alone": "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup",
		"case_49_hybrid": "umount -R /sys/fs/cgroup && mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/unified /sys/fs/cgroup/systemd && " +
			"mount -t cgroup2 none /sys/fs/cgroup/unified && { mount -t cgroup -o none,name=sluice-test none /sys/fs/cgroup/systemd || true; }",
	}
}

// TestHierarchies runs the daemon and an agent on each kind of host: `sluice run`, and an attach by path.
func TestHierarchies(t *testing.T) {
	kerneltest.Require(t)
	mount, err := cgroup.Mount()
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range hierarchies() {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			h.daemon.kill()
			inside := []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script + ` && exec "$@"`, "sh"}
			h.start(inside...)
			cmd := h.agent(nil, append(inside, h.path, "run", "--user", "root", "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", modelsURL)...)
			out, err := cmd.CombinedOutput()
			if err != nil || string(out) != "200" {
				t.Errorf("run: %v: %s", err, out)
			}
			dir := kerneltest.Cgroup(t)
			seen := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(dir, mount))
			if name == "case_49_hybrid" {
				seen = filepath.Join("/sys/fs/cgroup/unified", strings.TrimPrefix(dir, mount))
			}
			id := strings.TrimSpace(h.sluice("", "attach", "--cgroup", seen))
			if got := h.targets(); len(got) != 1 || got[0].Id != id || got[0].State != "attached" || got[0].Cgroup != seen {
				t.Errorf("targets: %+v", got)
			}
			h.sluice("", "detach", id)
			if entries := h.sim.Journal().Entries(); len(entries) != 1 || entries[0].Credential == "" {
				t.Errorf("upstream saw %+v", entries)
			}
			if _, err := os.Stat(dir); err != nil {
				t.Error(err)
			}
		})
	}
}
