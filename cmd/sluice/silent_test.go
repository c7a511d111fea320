package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// asking are the commands that ask a daemon, by name, as they are called.
var asking = map[string][]string{
	"status": nil, "targets": nil, "events": {"-n", "1"},
	"attach": {"--pid", "1"}, "detach": {"abcdefgh"}, "ca show": nil,
	"cred add": {"a"}, "cred update": {"a"}, "cred list": nil, "cred remove": {"a"}, "cred import": {"codex", "auth.json"},
	"pool create": {"p", "--members", "a", "--provider", "openai"}, "pool list": nil, "pool status": {"p"}, "pool rotate": {"p"},
	"pool remove": {"p"}, "pool clear": {"p"}, "pool add-member": {"p", "a"}, "pool remove-member": {"p", "a"},
	"pool set-auth-reset": {"p", "t"}, "pool reset-agent": {"p"},
}

// quiet are those that ask none; run asks as attach does, and doctor has a test of its own.
var quiet = []string{
	"serve", "run", "doctor", "vault rekey", "backup", "restore", "audit verify", "token", "version", "completion", "help", manName, execName, powersName,
}

// TestCommandsOfADaemonThatDoesNotAnswer: each ends, and says what to do.
func TestCommandsOfADaemonThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket) // nobody accepts: so it is when the daemon was stopped
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	file := filepath.Join(dir, "auth.json")
	if err := os.WriteFile(file, []byte(`{"OPENAI_API_KEY": "sk-canary"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	// All at once, for each takes as long as a daemon is waited for.
	var tries sync.WaitGroup
	try := func(args ...string) {
		tries.Go(func() {
			if i := slices.Index(args, "auth.json"); i >= 0 {
				args[i] = file
			}
			var said bytes.Buffer
			began := time.Now()
			status := sluice(env{
				ctx: t.Context(), stdin: strings.NewReader("sk-canary"), stdout: io.Discard, stderr: &said, now: time.Now,
				getenv: func(name string) string { return map[string]string{"SLUICE_SOCKET": socket}[name] },
			}, args)
			if status != exitFailed || strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), "the daemon on "+socket+" does not answer: it was stopped, or hangs") {
				t.Errorf("%s: status %d: %s", strings.Join(args, " "), status, &said)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("%s took %s", strings.Join(args, " "), took)
			}
		})
	}
	var each func(cmd *cobra.Command)
	each = func(cmd *cobra.Command) {
		if cmd.HasSubCommands() {
			for _, child := range cmd.Commands() {
				each(child)
			}
			return
		}
		name := strings.TrimPrefix(cmd.CommandPath(), "sluice ")
		args, asks := asking[name]
		switch {
		case asks:
			try(append(strings.Fields(name), args...)...)
		case !slices.Contains(quiet, name):
			t.Errorf("%s: does it ask the daemon?", name)
		}
	}
	each(newRoot(defaultEnv()))
	try("detach", "--all")
	try("events", "--follow")
	try("pool", "status", "p", "--watch")
	tries.Wait()
}
