package main

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestRunEndsAsItsAgentWhateverTheDaemonDoes: the daemon is gone when the agent ends. The
// status is the agent's, it is said what is left, and the daemon sees to that.
func TestRunEndsAsItsAgentWhateverTheDaemonDoes(t *testing.T) {
	h := newHouse(t, nil)
	cmd := h.agent(nil, h.path, "run", "--user", "root", "--", "sh", "-c", "echo started; read go; exit 7")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started := make([]byte, len("started\n"))
	if _, err := stdout.Read(started); err != nil {
		t.Fatal(err)
	}
	h.daemon.kill()
	_ = stdin.Close()
	var status *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &status) || status.ExitCode() != 7 || !strings.Contains(said.String(), "once it is back") {
		t.Errorf("%v: %s", err, said.String())
	}
	h.start()
	for deadline := time.Now().Add(20 * time.Second); strings.Contains(h.sluice("", "targets", "-o", "json"), "cgroup"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the target of an agent that ended stays")
		}
	}
}
