package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// lenient is a guard's programs that let everything pass.
type lenient struct{ *ebpf.Program }

func (lenient) GuardLink(uint64, int, uint16) error { return ebpf.ErrNotSupported }
func (lenient) SweepGuard(uint64) error             { return nil }
func (lenient) Unguard(uint64) error                { return nil }
func (p lenient) GuardProgram(uint16) *ebpf.Program { return p.Program }

// TestDetachAllClearsGuards has a daemon die that guarded links as older kernels need it: nobody
// remembers in which namespaces it did, and nothing of it is pinned.
func TestDetachAllClearsGuards(t *testing.T) {
	needs(t, "nft", "tc", "bpftool", "ss", "unshare")
	h := newEmptyHouse(t, nil, nil)
	cgroup := kerneltest.Cgroup(t)
	apart := fmt.Sprintf("/proc/%d/ns/net", resident(t, cgroup))
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	look := func() census {
		c := make(census)
		c.network(t, h.pair.Agent)
		c.network(t, apart)
		return c
	}
	h.daemon.kill()
	before := look()
	for backend, path := range map[guard.Backend]string{guard.Clsact: h.pair.Agent, guard.NFTables: apart} {
		ns, err := netns.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		links, err := guard.New(guard.Options{
			Programs: lenient{prog}, Name: guardName(h.pins()), Backend: backend, Rules: func() guard.Rules { return guard.Rules{Ports: []uint16{443}} },
		}).Protect(ns)
		if err != nil {
			t.Fatal(err)
		}
		links.Stop()
	}
	there := strings.Join(look().left(before), "\n")
	for _, what := range []string{"clsact", guardName(h.pins()) + "_guard", "table inet " + guardName(h.pins())} {
		if !strings.Contains(there, what) {
			t.Errorf("before, there is no %q: it proves nothing\n%s", what, there)
		}
	}
	h.sluice("", "detach", "--all", "--config", filepath.Join(h.dir, "config.toml"), "--state-dir", filepath.Join(h.dir, "state"))
	for _, what := range look().left(before) {
		t.Errorf("left is %s", what)
	}
}
