package main

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control/api"
)

// freePort is a port on which nobody listens at the moment.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestOverTCP drives a real daemon over TCP with a token, with the command itself.
// What was changed, and who was not let in, is in the audit log.
func TestOverTCP(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "api.tokens")
	port := freePort(t)
	if _, err := api.AddToken(file, "laptop"); err != nil {
		t.Fatal(err)
	}
	h := newEmptyHouse(t, nil, nil, fmt.Sprintf("[api]\nlisten = \"127.0.0.1:%d\"\ntoken_file = %q\n", port, file))
	secret := filepath.Join(h.dir, "ci.token")
	made := h.sluice("", "token", "ci", "--file", file) // counts without a restart
	h.write("ci.token", made)
	remote := func(stdin string, args ...string) (string, error) {
		cmd := exec.Command(h.path, args...)
		cmd.Env = []string{fmt.Sprintf("SLUICE_URL=http://127.0.0.1:%d", port), "SLUICE_TOKEN_FILE=" + secret, quickExit}
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, c := range [][]string{{"sk-canary", "cred", "add", "a"}, {"sk-canary", "cred", "add", "b"}, {"", "pool", "create", "p", "--members", "a,b", "--provider", "openai"}, {"", "pool", "rotate", "p"}} {
		if out, err := remote(c[0], c[1:]...); err != nil {
			t.Fatalf("%v: %v: %s", c[1:], err, out)
		}
	}
	if events := h.sluice("", "events"); !strings.Contains(events, "pool_rotated pool=p member=a to=b by=tcp:ci@127.0.0.1") {
		t.Errorf("the events are\n%s", events)
	}
	h.write("ci.token", "sluice_canary")
	var exit *exec.ExitError
	if out, err := remote("", "pool", "list"); !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(out, "token") || strings.Contains(out, "canary") {
		t.Errorf("a wrong token: %v: %s", err, out)
	}
	// The event is written by a goroutine of its own: it may come a moment later.
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(h.sluice("", "events"), `denied reason="wrong token" by=tcp:@127.0.0.1`) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing says that somebody was not let in:\n%s", h.sluice("", "events"))
		}
	}
	if log := h.daemon.log.String(); strings.Contains(log, strings.TrimSpace(made)) || strings.Contains(log, "canary") {
		t.Error("a token or a secret is in the daemon's log")
	}
	h.sluice("", "audit", "verify", "--state-dir", filepath.Join(h.dir, "state"))
}
