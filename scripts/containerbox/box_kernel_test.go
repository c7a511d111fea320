package containerbox

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

func TestContainers(t *testing.T) {
	b := New(t, Options{Files: map[string]File{"/home/agent/note": {Body: []byte("latched\n"), Mode: 0o600, UID: Agent}}})
	pair := kerneltest.NewPair(t)
	for _, tt := range []struct {
		name string
		o    ContainerOptions
	}{
		{"host", ContainerOptions{}},
		{"netns", ContainerOptions{NetNS: pair.Agent}},
		{"native", ContainerOptions{Snapshotter: "native", NetNS: pair.Agent}},
		{"readonly", ContainerOptions{ReadOnly: true}},
		{"pod", ContainerOptions{Parent: "kubepods/pod7", UID: Agent}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := b.Run(tt.name, tt.o)
			said, code := c.Exec(Agent, "sh", "-c", "cat /home/agent/note; id -u; ls /sys/class/net | wc -l; touch /x 2>&1; exit 3")
			if code != 3 || !strings.HasPrefix(said, "latched\n10000\n") {
				t.Errorf("exec: %d %q", code, said)
			}
			if tt.o.NetNS != "" {
				here, err := os.Stat(tt.o.NetNS)
				if err != nil {
					t.Fatal(err)
				}
				inside, err := os.Stat(filepath.Join("/proc", strconv.Itoa(c.PID()), "ns/net"))
				if err != nil || !os.SameFile(here, inside) {
					t.Errorf("not in its namespace: %v", err)
				}
			}
			if said, code := c.Exec(0, "touch", "/x"); (code != 0) != tt.o.ReadOnly {
				t.Errorf("write to the root: %d %s", code, said)
			}
			before := identity(t, c)
			c.Restart()
			if identity(t, c) == before {
				t.Error("the same cgroup after a restart")
			}
			dir := c.Cgroup()
			c.Remove()
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("cgroup after removal: %v", err)
			}
		})
	}
}

// identity is the number of the container's cgroup.
func identity(t *testing.T, c *Container) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(c.Cgroup(), &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func TestDeafContainerIsKilled(t *testing.T) {
	b := New(t, Options{})
	c := b.Run("deaf", ContainerOptions{Args: Deaf()})
	began := time.Now()
	c.Stop()
	if took := time.Since(began); took < time.Second {
		t.Errorf("ended after %s: SIGTERM was enough", took)
	}
}

func TestDaemonRestarts(t *testing.T) {
	b := New(t, Options{})
	c := b.Run("stays", ContainerOptions{Args: []string{"sh", "-c", "echo begun; sleep 1000"}})
	pid := c.PID()
	b.KillDaemon()
	b.StartDaemon()
	if said, code := c.Exec(0, "echo", "here"); code != 0 || said != "here\n" {
		t.Errorf("exec: %d %q", code, said)
	}
	if c.PID() != pid || c.Output() != "begun\n" {
		t.Errorf("pid %d, not %d; output %q", c.PID(), pid, c.Output())
	}
	c.Stop()
}
