package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// census is all that a sluice could leave behind, by the kernel's word: what it is -> how it looks.
type census map[string]string

// left is what is there now and was not before, sorted.
func (c census) left(before census) []string {
	var more []string
	for what, how := range c {
		if was, ok := before[what]; !ok || was != how {
			more = append(more, what+" "+how)
		}
	}
	slices.Sort(more)
	return more
}

// hostNetNS is the namespace of the tests and the daemons.
const hostNetNS = "/proc/self/ns/net"

// surroundings are where a census looks, besides the kernel's lists of programs, maps and links.
type surroundings struct {
	namespaces []string // network namespaces, as files
	processes  []int    // whose mounts are looked at
	dirs       []string // whose files count
	pins       string   // the BPF file system that is not another test's
}

func take(t *testing.T, s surroundings) census {
	t.Helper()
	c := make(census)
	c.bpf(t, s.pins)
	for _, ns := range s.namespaces {
		c.network(t, ns)
	}
	for _, pid := range s.processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			id, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			if pid == os.Getpid() && othersMount(rest) {
				continue
			}
			c[fmt.Sprintf("mount %s of process %d", id, pid)] = rest
		}
	}
	for _, dir := range s.dirs {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != dir {
				c["file "+path] = ""
			}
			return nil
		})
	}
	c.cgroups(t)
	return c
}

// othersMount tells the mounts that other tests make in the host's namespace.
func othersMount(line string) bool {
	at := strings.Fields(line)[3]
	for _, prefix := range []string{"/run/netns/", "/run/docker", "/run/containerd", "/var/lib/", "/tmp/"} {
		if strings.HasPrefix(at, prefix) {
			return true
		}
	}
	return false
}

// bpf lists every program, map and link of the kernel that nobody else on this machine holds.
func (c census) bpf(t *testing.T, pins string) {
	t.Helper()
	others := heldBPF(t, pins)
	add := func(kind string, next func(uint32) (uint32, error)) {
		for id := uint32(0); ; {
			var err error
			if id, err = next(id); errors.Is(err, fs.ErrNotExist) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
			if what := fmt.Sprintf("%s %d", kind, id); !others[what] {
				c[what] = ""
			}
		}
	}
	add("program", func(id uint32) (uint32, error) {
		next, err := ebpf.ProgramGetNextID(ebpf.ProgramID(id))
		return uint32(next), err
	})
	add("map", func(id uint32) (uint32, error) {
		next, err := ebpf.MapGetNextID(ebpf.MapID(id))
		return uint32(next), err
	})
	for _, id := range kerneltest.Links(t) {
		if what := fmt.Sprintf("link %d", id); !others[what] {
			c[what] = ""
		}
	}
}

// heldBPF is what processes have open or other BPF file systems have pinned, and what hangs on that: other tests
// run at the same time. What is only attached is held by nobody.
func heldBPF(t *testing.T, pins string) map[string]bool {
	t.Helper()
	held := make(map[string]bool)
	infos, err := filepath.Glob("/proc/[0-9]*/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{"prog_id": "program ", "map_id": "map ", "link_id": "link "}
	for _, name := range infos {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			if kind, ok := keys[key]; ok {
				held[kind+strings.TrimSpace(value)] = true
			}
		}
	}
	pinnedElsewhere(t, pins, held)
	for what := range maps.Clone(held) {
		if id, ok := strings.CutPrefix(what, "program "); ok {
			n, err := strconv.ParseUint(id, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			hangsOn(ebpf.ProgramID(n), held)
		}
	}
	return held
}

// pinnedElsewhere adds what is pinned on other BPF file systems than one.
func pinnedElsewhere(t *testing.T, but string, held map[string]bool) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if !strings.Contains(line, " - bpf ") || fields[4] == but {
			continue
		}
		_ = filepath.WalkDir(fields[4], func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil
			}
			if l, err := link.LoadPinnedLink(path, nil); err == nil {
				if info, err := l.Info(); err == nil {
					held[fmt.Sprintf("link %d", info.ID)] = true
					held[fmt.Sprintf("program %d", info.Program)] = true
				}
				_ = l.Close()
			} else if m, err := ebpf.LoadPinnedMap(path, nil); err == nil {
				if info, err := m.Info(); err == nil {
					if id, ok := info.ID(); ok {
						held[fmt.Sprintf("map %d", id)] = true
					}
				}
				_ = m.Close()
			}
			return nil
		})
	}
}

// hangsOn adds a program and its maps.
func hangsOn(id ebpf.ProgramID, held map[string]bool) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return // it has gone
	}
	defer p.Close()
	held[fmt.Sprintf("program %d", id)] = true
	info, err := p.Info()
	if err != nil {
		return
	}
	used, _ := info.MapIDs()
	for _, m := range used {
		held[fmt.Sprintf("map %d", m)] = true
	}
}

// network lists what a network namespace has: rules, filters, and sockets that are not a connection.
func (c census) network(t *testing.T, ns string) {
	t.Helper()
	for _, args := range [][]string{
		{"nft", "list", "ruleset"},
		{"ip", "rule"},
		{"ip", "-6", "rule"},
		{"ip", "route", "show", "table", "all"},
		{"tc", "qdisc"},
		{"sh", "-c", `for dev in $(ls /sys/class/net); do for way in ingress egress; do echo "$dev $way $(tc filter show dev "$dev" "$way" 2>/dev/null)"; done; done`},
		{"bpftool", "net", "show"},
		{"ss", "-H", "-l", "-n", "-A", "inet,packet"},
	} {
		if args[0] == "ss" && ns == hostNetNS {
			continue // others' tests listen there
		}
		out, err := exec.Command("nsenter", append([]string{"--net=" + ns}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s in %s: %v: %s", strings.Join(args, " "), ns, err, out)
		}
		for line := range strings.Lines(string(out)) {
			// The kernel's own routes come and go with addresses.
			if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "proto kernel") {
				c[fmt.Sprintf("%s in %s: %s", args[0], ns, line)] += "*" // as often as it is there
			}
		}
	}
}

// cgroups lists every cgroup but those of others: a run's has the id of its process in its name.
func (c census) cgroups(t *testing.T) {
	t.Helper()
	mount, err := cgroup.Mount()
	if err != nil {
		t.Fatal(err)
	}
	parent, others := filepath.Join(mount, scopeParent), false
	_ = filepath.WalkDir(parent, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if parts := strings.Split(d.Name(), "-"); len(parts) == 3 && parts[0] == "run" {
			if _, err := os.Stat("/proc/" + parts[1]); err == nil {
				others = true
				return fs.SkipDir
			}
		}
		c["cgroup "+path] = ""
		return nil
	})
	if others {
		delete(c, "cgroup "+parent)
	}
}
