//go:build guest

package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// files is where scripts/vm has put what the tests need.
const files = "/root/sluice"

// patience is how long anything may take. The machine is emulated, and slow.
const patience = 3 * time.Minute

// run runs a command and returns what it printed; its failure is the test's.
func run(t *testing.T, argv ...string) string {
	t.Helper()
	return feed(t, "", argv...)
}

// feed is run with something to read.
func feed(t *testing.T, stdin string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// try is what a command printed and its exit status.
func try(argv ...string) (string, int) {
	cmd := exec.Command(argv[0], argv[1:]...)
	out, _ := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// eventually waits until f says nothing more.
func eventually(t *testing.T, what string, f func() (missing string)) {
	t.Helper()
	begun := time.Now()
	for {
		missing := f()
		if missing == "" {
			return
		}
		if time.Since(begun) > patience {
			t.Fatalf("%s: not within %s: %s\n%s", what, patience, missing, journal())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// journal is what the daemon has said lately.
func journal() string {
	said, _ := try("journalctl", "-u", "sluice", "-n", "40", "--no-pager", "-o", "cat")
	return said
}

// property is one of systemctl show.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	return run(t, "systemctl", "show", unit, "--property="+name, "--value")
}

// pid is the daemon's process.
func pid(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(property(t, "sluice", "MainPID"))
	if err != nil || n == 0 {
		t.Fatalf("sluice does not run: MainPID %d (%v)\n%s", n, err, journal())
	}
	return n
}

// ask decodes what a command of sluice says as JSON.
func ask[T any](t *testing.T, argv ...string) T {
	t.Helper()
	var into T
	out := run(t, append([]string{"sluice", "-o", "json"}, argv...)...)
	if err := json.Unmarshal([]byte(out), &into); err != nil {
		t.Fatalf("sluice %s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return into
}

// get decodes what the API says to a GET. It costs an emulated processor a fraction of a command's start, so it is for what is asked again
// and again.
func get[T any](path string) (into T, err error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", "/run/sluice/sluice.sock")
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://sluice" + path)
	if err != nil {
		return into, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(resp.Body)
		return into, fmt.Errorf("GET %s: %s: %s", path, resp.Status, said)
	}
	return into, json.NewDecoder(resp.Body).Decode(&into)
}

type target struct {
	ID, Kind, Unit, Container, State, Reason, Cgroup string
}

// attached waits until a unit or a container is.
func attached(t *testing.T, name string) {
	t.Helper()
	eventually(t, name+" is attached", func() string {
		all, err := get[[]target]("/api/targets")
		if err != nil {
			return err.Error()
		}
		for _, one := range all {
			if (one.Unit == name || one.Container == name) && one.State == "attached" {
				return ""
			}
		}
		return fmt.Sprint(all)
	})
}

type event struct {
	Seq                        int
	Kind, Pool, Member, Reason string
}

// kinds are those of the events after seq, in order, without those of other kinds than asked for.
func kinds(t *testing.T, seq int, of ...string) []string {
	t.Helper()
	events, err := get[[]event](fmt.Sprintf("/api/events?after=%d&limit=500", seq))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range events {
		for _, kind := range of {
			if e.Kind == kind {
				all = append(all, kind)
			}
		}
	}
	return all
}

// lastEvent is the newest event's number.
func lastEvent(t *testing.T) int {
	t.Helper()
	last := 0
	for _, e := range ask[[]event](t, "events", "-n", "1") {
		last = e.Seq
	}
	return last
}
