package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/reset"
)

// standIn is an executable in a client's place: it writes down each argument, ended by
// a NUL, and the file of variables, and then does what the script says. Tests with one
// are not parallel: a fork of another test's would hold it open for writing.
func standIn(t *testing.T, script string) (client, record string) {
	t.Helper()
	dir := t.TempDir()
	client, record = filepath.Join(dir, "client"), filepath.Join(dir, "record")
	text := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\0' \"$@\" >%[1]s\nwhile [ $# -gt 0 ]; do [ \"$1\" = --env-file ] && cp \"$2\" %[1]s.env && stat -c %%a \"$2\" >%[1]s.mode; shift; done\n%[2]s\n", record, script)
	if err := os.WriteFile(client, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return client, record
}

func recorded(t *testing.T, record string) []string {
	t.Helper()
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

func command(argv ...string) reset.Command {
	return reset.Command{Argv: argv, UID: 10000, GID: 10001, Timeout: 20 * time.Second, Environment: []string{"HOME=/home/a b", "USER=x"}}
}

func TestAppleArguments(t *testing.T) {
	client, record := standIn(t, "echo done; exit 3")
	hostile := "a; $(id) \" ' \n"
	got, err := NewApple(client).Exec(t.Context(), "box", command("hermes", "auth", "reset", hostile))
	if err != nil || got.ExitCode != 3 || string(got.Output) != "done\n" || got.Took <= 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	args := recorded(t, record)
	file := args[4]
	want := []string{"exec", "--user", "10000:10001", "--env-file", file, "--workdir", "/", "box", "hermes", "auth", "reset", hostile}
	if !slices.Equal(args, want) {
		t.Errorf("%q, want %q", args, want)
	}
	env, err := os.ReadFile(record + ".env")
	if err != nil || string(env) != "HOME=/home/a b\nUSER=x\n" {
		t.Errorf("the variables are %q, %v", env, err)
	}
	if mode, err := os.ReadFile(record + ".mode"); err != nil || string(mode) != "600\n" {
		t.Errorf("their file is %q, %v", mode, err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file with the variables is left: %v", err)
	}
	c := command("x")
	c.Environment = []string{"A=b\nC=d"}
	if _, err := NewApple(client).Exec(t.Context(), "box", c); err == nil || strings.Contains(err.Error(), "C=d") {
		t.Errorf("a line break in a variable: %v", err)
	}
}

func TestTartArguments(t *testing.T) {
	client, record := standIn(t, "exit 0")
	if got, err := NewTart(client).Exec(t.Context(), "vm", command("hermes", "auth")); err != nil || got.ExitCode != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	want := []string{"exec", "vm", "sudo", "-n", "-u", "#10000", "-g", "#10001", "--", "env", "HOME=/home/a b", "USER=x", "hermes", "auth"}
	if args := recorded(t, record); !slices.Equal(args, want) {
		t.Errorf("%q, want %q", args, want)
	}
}

func TestFilesAreReadAsRoot(t *testing.T) {
	for name, c := range map[string]struct {
		open func(client string) *Runtime
		want []string
	}{
		"apple": {NewApple, []string{"exec", "--user", "0:0", "--workdir", "/", "box", "cat", "--", "/a b"}},
		"tart":  {NewTart, []string{"exec", "box", "sudo", "-n", "-u", "#0", "-g", "#0", "--", "cat", "--", "/a b"}},
	} {
		client, record := standIn(t, "printf text; echo warning >&2")
		text, err := c.open(client).ReadFile(t.Context(), "box", "/a b", 4)
		if err != nil || string(text) != "text" || !slices.Equal(recorded(t, record), c.want) {
			t.Errorf("%s: %q, %v, %q", name, text, err, recorded(t, record))
		}
		if _, err := c.open(client).ReadFile(t.Context(), "box", "/a b", 3); err == nil {
			t.Errorf("%s: more than the limit", name)
		}
		client, _ = standIn(t, "echo 'cat: /a: No such file or directory' >&2; exit 1")
		if _, err := c.open(client).ReadFile(t.Context(), "box", "/a", 3); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		open   func(string) *Runtime
		want   error // nil: the command's own
	}{
		"apple not found":   {`echo 'Error: container box not found'; exit 1`, NewApple, reset.ErrNotFound},
		"apple stopped":     {`echo 'Error: container box is not running'; exit 1`, NewApple, reset.ErrNotRunning},
		"apple away":        {`echo 'Error: XPC connection error: Connection invalid'; exit 1`, NewApple, reset.ErrUnavailable},
		"apple no command":  {`exit 127`, NewApple, reset.ErrNoCommand},
		"tart not found":    {`echo 'Error: the specified VM "box" does not exist' >&2; exit 2`, NewTart, reset.ErrNotFound},
		"tart stopped":      {`echo 'Error: VM "box" is not running' >&2; exit 2`, NewTart, reset.ErrNotRunning},
		"tart no command":   {`echo 'sudo: hermes: command not found' >&2; exit 127`, NewTart, reset.ErrNoCommand},
		"the command's own": {`echo 'provider not found'; exit 1`, NewApple, nil},
	} {
		client, _ := standIn(t, c.script)
		got, err := c.open(client).Exec(t.Context(), "box", command("hermes"))
		if !errors.Is(err, c.want) || (c.want == nil && got.ExitCode != 1) {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, c.want)
		}
	}
	if _, err := NewApple("/no/such/client").Exec(t.Context(), "box", command("x")); !errors.Is(err, reset.ErrUnavailable) {
		t.Errorf("no client: %v", err)
	}
}

// TestClientIsKilled at the time-out, with what it started.
func TestClientIsKilled(t *testing.T) {
	client, _ := standIn(t, "trap '' TERM; echo begun; sleep 1000 & sleep 1000")
	c := command("hermes")
	c.Timeout = 300 * time.Millisecond
	got, err := NewTart(client).Exec(t.Context(), "box", c)
	if err != nil || !got.TimedOut || got.Took > 10*time.Second || string(got.Output) != "begun\n" {
		t.Errorf("%+v, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := NewTart(client).Exec(ctx, "box", command("hermes")); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
