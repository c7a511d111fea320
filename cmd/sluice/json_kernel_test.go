package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
)

// noJSON is what has no form as JSON, and why.
var noJSON = map[string]string{
	"serve":      "it prints nothing, and logs on standard error",
	"run":        "what it prints is its command's",
	"__exec":     "so is what this prints",
	"__powers":   "it is for doctor, which reads it",
	"__man":      "pages are what was asked for",
	"completion": "a script for a shell is what was asked for",
}

// TestEveryCommandSpeaksJSON has each command that is not excused print one JSON value
// with -o json, colours asked for or not.
func TestEveryCommandSpeaksJSON(t *testing.T) {
	t.Parallel()
	h := newEmptyHouse(t, nil, nil)
	cgroup := kerneltest.Cgroup(t)
	h.sluice("s", "cred", "add", "spare")
	h.write("auth.json", `{"OPENAI_API_KEY":"sk-of-codex-16180339"}`)
	state := filepath.Join(h.dir, "state")
	steps := []struct {
		command string
		args    []string
	}{
		{"version", nil},
		{"status", nil},
		{"ca show", nil},
		{"doctor", []string{"--config", filepath.Join(h.dir, "config.toml"), "--state-dir", state}},
		{"token", []string{"laptop", "--file", filepath.Join(h.dir, "tokens")}},
		{"cred add", []string{"a"}},
		{"cred import", []string{"codex", filepath.Join(h.dir, "auth.json"), "--name", "imported"}},
		{"cred list", nil},
		{"cred update", []string{"a"}},
		{"pool create", []string{"p", "--members", "a", "--provider", "openai"}},
		{"pool list", nil},
		{"pool status", []string{"p"}},
		{"pool add-member", []string{"p", "spare"}},
		{"pool rotate", []string{"p"}},
		{"pool clear", []string{"p"}},
		{"pool remove-member", []string{"p", "spare"}},
		{"pool set-auth-reset", []string{"p", "openai"}},
		{"attach", []string{"--cgroup", cgroup}},
		{"pool reset-agent", []string{"p", "--dry-run"}},
		{"targets", nil},
		{"detach", []string{"--all"}},
		{"attach", []string{"--cgroup", cgroup}},
		{"pool remove", []string{"p"}},
		{"cred remove", []string{"a"}},
		{"events", nil},
		{"audit verify", []string{"--state-dir", state}},
		{"backup", []string{filepath.Join(h.dir, "backup"), "--state-dir", state}},
		{"restore", []string{filepath.Join(h.dir, "backup"), "--state-dir", filepath.Join(h.dir, "restored")}},
		{"vault rekey", []string{"--state-dir", state}}, // from here on the daemon is stopped
	}
	tried := make(map[string]bool)
	for i, step := range steps {
		if step.command == "vault rekey" {
			h.daemon.kill()
		}
		tried[step.command] = true
		args := append(strings.Fields(step.command), append(step.args, "-o", "json", "--color", colours[i%len(colours)])...)
		cmd := exec.CommandContext(t.Context(), h.path, args...)
		cmd.Env = []string{"SLUICE_SOCKET=" + h.socket, quickExit}
		cmd.Stdin = strings.NewReader("secret\n")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		// These two report what they found, and then end with 1 if that is not good.
		report := step.command == "doctor" || step.command == "pool reset-agent"
		if !json.Valid(out) || err != nil && !report {
			t.Errorf("%s: %v: %s%s", step.command, err, out, stderr.String())
		}
		if list := slices.Contains([]string{"cred import", "cred list", "pool list", "targets", "detach", "events", "doctor"}, step.command); list != bytes.HasPrefix(out, []byte("[")) {
			t.Errorf("%s: that it is a list is %v: %s", step.command, list, out)
		}
		if step.command == "detach" && !bytes.Contains(out, []byte(`"id": "`)) {
			t.Errorf("nothing was detached: %s", out)
		}
	}
	h.start()
	var attached []struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(h.sluice("", "targets", "-o", "json")), &attached); err != nil || len(attached) != 1 {
		t.Fatalf("%v: %+v", err, attached)
	}
	if got, want := h.sluice("", "detach", attached[0].ID, "-o", "json"), fmt.Sprintf("{\n  \"id\": %q\n}\n", attached[0].ID); got != want {
		t.Errorf("detach: %q, want %q", got, want)
	}
	for _, command := range commandLines() {
		if !tried[command] && noJSON[command] == "" {
			t.Errorf("%s: does it speak JSON? Add it to the steps, or to noJSON with the reason", command)
		}
		if tried[command] && noJSON[command] != "" {
			t.Errorf("%s is excused for nothing", command)
		}
	}
}
