// Package kerneltest gives tests real cgroups, network namespaces and BPF file
// systems, and takes them away again.
package kerneltest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// required is what makes a test that cannot run here a failure: CI sets it, so
// that nothing passes by being skipped.
const required = "SLUICE_KERNEL_TESTS"

// Require skips the test where there is no root, cgroup v2 or BPF, and fails it
// there if SLUICE_KERNEL_TESTS=require.
func Require(t testing.TB) {
	t.Helper()
	if err := usable(); err != nil {
		if os.Getenv(required) == "require" {
			t.Fatalf("%s=require, and this machine cannot run kernel tests: %v", required, err)
		}
		t.Skipf("kernel test: %v", err)
	}
}

func usable() error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	if _, err := cgroupMount(); err != nil {
		return err
	}
	if err := features.HaveProgramType(ebpf.CGroupSockAddr); err != nil {
		return fmt.Errorf("BPF cgroup programs: %w", err)
	}
	return nil
}

// cgroupMount finds the cgroup v2 hierarchy, which is beside the v1 ones on some hosts.
func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return fields[4], nil
		}
	}
	return "", errors.New("cgroup v2 is not mounted")
}

// sequence tells the things of one test process apart; the pid tells processes apart.
var sequence atomic.Int64

func unique(prefix string) string {
	return fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), sequence.Add(1))
}

// Cgroup makes a cgroup. At the end of the test its processes are killed and it is removed.
func Cgroup(t testing.TB) string {
	t.Helper()
	Require(t)
	mount, err := cgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(mount, unique("sluice-test-"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveCgroup(dir); err != nil {
			t.Errorf("remove cgroup: %v", err)
		}
	})
	return dir
}

// RemoveCgroup kills what is in a cgroup and the ones below it, and removes them.
func RemoveCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := RemoveCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, pid := range strings.Fields(string(procs)) {
			if n, err := strconv.Atoi(pid); err == nil && n > 1 {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond) // a killed process leaves its cgroup when it is reaped
	}
}

// BPFFS mounts a BPF file system of the test's own and returns a directory on it.
func BPFFS(t testing.TB) string {
	t.Helper()
	Require(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// Pair is two network namespaces with a link between them: an agent's, with no
// route but the link, and a server's.
type Pair struct {
	Agent, Server       string // paths, as for setns
	AgentIP4, ServerIP4 string
	AgentIP6, ServerIP6 string
	Link                string // the agent's end of the link
}

// NetNS makes a network namespace with lo up and returns its path.
func NetNS(t testing.TB) string {
	t.Helper()
	Require(t)
	name := unique("sl")
	ip(t, "netns", "add", name)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("remove namespace: %v: %s", err, out)
		}
	})
	ip(t, "-n", name, "link", "set", "lo", "up")
	return filepath.Join("/run/netns", name)
}

// NewPair makes a [Pair]. The addresses are the same for every pair: the
// namespaces know nothing of each other.
func NewPair(t testing.TB) Pair {
	t.Helper()
	p := Pair{
		Agent: NetNS(t), Server: NetNS(t), Link: "eth0",
		AgentIP4: "10.77.0.2", ServerIP4: "10.77.0.1", AgentIP6: "fd77::2", ServerIP6: "fd77::1",
	}
	agent, server := filepath.Base(p.Agent), filepath.Base(p.Server)
	ip(t, "-n", agent, "link", "add", p.Link, "type", "veth", "peer", "name", "eth0", "netns", server)
	for name, addrs := range map[string][2]string{agent: {p.AgentIP4, p.AgentIP6}, server: {p.ServerIP4, p.ServerIP6}} {
		ip(t, "-n", name, "addr", "add", addrs[0]+"/24", "dev", "eth0")
		ip(t, "-n", name, "addr", "add", addrs[1]+"/64", "dev", "eth0", "nodad")
		ip(t, "-n", name, "link", "set", "eth0", "up")
	}
	return p
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
