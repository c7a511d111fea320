package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

func TestUnitName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"agent": "agent.service", "agent.service": "agent.service", "a.b": "a.b.service", "user@1000.service": "user@1000.service",
		"x.scope": "x.scope", "-.slice": "-.slice", "": "", "../x": "", "a/b.service": "", "a b": "", ".service": "", ".": "", strings.Repeat("x", 250): "",
	} {
		got, err := unitName(name)
		if (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

func TestUnitInTheTree(t *testing.T) {
	parent, other := kerneltest.Cgroup(t), kerneltest.Cgroup(t)
	name := "agent-" + filepath.Base(parent)
	if _, _, err := OfUnit(t.Context(), name); !errors.Is(err, ErrNoUnit) || !strings.Contains(err.Error(), name+".service") {
		t.Errorf("absent: %v", err)
	}
	made := filepath.Join(parent, "nested", name+".service")
	if err := os.MkdirAll(made, 0o755); err != nil {
		t.Fatal(err)
	}
	path, unit, err := OfUnit(t.Context(), name)
	if err != nil || path != made || unit != name+".service" {
		t.Errorf("found %q, %q, %v", path, unit, err)
	}
	if err := os.Mkdir(filepath.Join(other, name+".service"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OfUnit(t.Context(), name); !errors.Is(err, ErrManyUnits) || !strings.Contains(err.Error(), made) || !strings.Contains(err.Error(), other) {
		t.Errorf("two of that name: %v", err)
	}
	if _, _, err := OfUnit(t.Context(), "../x"); err == nil {
		t.Error("a path is taken for a name")
	}
}

// properties answers for systemd on a bus of the test's own.
type properties map[string]string

func (p properties) Get(of, name string) (godbus.Variant, *godbus.Error) {
	value, ok := p[of+" "+name]
	if !ok {
		return godbus.Variant{}, godbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", nil)
	}
	return godbus.MakeVariant(value), nil
}

func TestUnitOverDBus(t *testing.T) {
	kerneltest.Require(t)
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
			t.Fatal("dbus-daemon is not installed, scripts/deps.sh does it")
		}
		t.Skip("dbus-daemon is not installed, scripts/deps.sh does it")
	}
	ctx, cancel := context.WithCancel(t.Context())
	socket := filepath.Join(t.TempDir(), "bus")
	cmd := exec.CommandContext(ctx, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address", "--address=unix:path="+socket)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	dial := func() (*godbus.Conn, error) { return godbus.Connect(strings.TrimSpace(address)) }
	server, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for unit, value := range map[string]properties{
		"agent.service": {"org.freedesktop.systemd1.Service ControlGroup": "/system.slice/agent.service"},
		"idle.service":  {"org.freedesktop.systemd1.Service ControlGroup": ""},
		"x.scope":       {"org.freedesktop.systemd1.Scope ControlGroup": "/user.slice/x.scope"},
	} {
		at := godbus.ObjectPath("/org/freedesktop/systemd1/unit/" + dbus.PathBusEscape(unit))
		if err := server.Export(value, at, "org.freedesktop.DBus.Properties"); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := server.RequestName("org.freedesktop.systemd1", godbus.NameFlagDoNotQueue); err != nil || reply != godbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("name: %v, %v", reply, err)
	}
	conn, err := dbus.NewConnection(dial)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for unit, want := range map[string]string{
		"agent.service": "/cg/system.slice/agent.service", "idle.service": "", "x.scope": "/cg/user.slice/x.scope", "unknown.service": "",
	} {
		if got, err := askSystemd(ctx, conn, "/cg", unit); err != nil || got != want {
			t.Errorf("%s: %q, %v", unit, got, err)
		}
	}
	conn.Close()
	if got, err := askSystemd(ctx, conn, "/cg", "agent.service"); err == nil {
		t.Errorf("of a closed connection: %q", got)
	} else if want := fmt.Sprintf("unit %s", "agent.service"); !strings.Contains(err.Error(), want) {
		t.Errorf("error: %v", err)
	}
}
