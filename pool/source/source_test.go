package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newSources(t testing.TB, o Options) *Sources {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// refuses holds that a source is refused, in words that say what to do, and without
// anything of what it holds.
func refuses(t *testing.T, s *Sources, from string, code pool.Code, says ...string) {
	t.Helper()
	got, err := s.Fetch(t.Context(), from, false)
	known, ok := errors.AsType[*pool.Error](err)
	if !ok || known.Code != code {
		t.Errorf("%s: %d bytes, %v, want an error of code %d", from, len(got.Bytes()), err, code)
		return
	}
	for _, want := range says {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q does not say %q", from, err, want)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("%s: the error shows what is there: %v", from, err)
	}
}

func gives(t *testing.T, s *Sources, from, want string) {
	t.Helper()
	got, err := s.Fetch(t.Context(), from, false)
	if err != nil || string(got.Bytes()) != want {
		t.Errorf("%s: %q, %v, want %q", from, got.Bytes(), err, want)
	}
}

// What is no source may be the secret itself, and is not repeated.
func TestNoSource(t *testing.T) {
	t.Parallel()
	s := newSources(t, Options{})
	for _, from := range []string{"", "canary", "sk-canary", "canary:x", "file:", "env:", "FILE:/canary", ":x"} {
		refuses(t, s, from, pool.CodeInvalid, "env:VARIABLE", "command:NAME:REF")
	}
	refuses(t, s, "vault:secret/x#y", pool.CodeInvalid, "secrets.vault.address")
	refuses(t, s, "command:op:x", pool.CodeInvalid, "[secrets.command.op]")
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	s := newSources(t, Options{Env: map[string]vault.Secret{"KEY": vault.NewSecret([]byte("canary")), "EMPTY": vault.NewSecret(nil)}})
	for range 2 { // what was given out is the taker's to overwrite
		got, err := s.Fetch(t.Context(), "env:KEY", false)
		if err != nil || string(got.Bytes()) != "canary" {
			t.Fatal(err)
		}
		got.Zero()
	}
	refuses(t, s, "env:EMPTY", pool.CodeInvalid, "is empty")
	refuses(t, s, "env:HOME", pool.CodeInvalid, "secrets.env")
}

func TestFiles(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "..data"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "..data/key"), "canary\n")
	write(filepath.Join(elsewhere, "shadow"), "canary")
	link("..data/key", "key") // as Kubernetes mounts secrets
	link(filepath.Join(elsewhere, "shadow"), "out")
	link("../"+filepath.Base(elsewhere)+"/shadow", "climbs")
	link(elsewhere, "dir")
	link("loop", "loop")
	for name, text := range map[string]string{
		"crlf": "canary\r\n", "spaces": " \n", "empty": "", "two": "canary\n\n", "page": "<!DOCTYPE html><p>canary</p>", "most": strings.Repeat("k", MaxSecret),
		"huge": strings.Repeat("canary", MaxSecret), "binary": "\x00\xff\x80canary", "sluice.identity": "AGE-SECRET-KEY-1CANARY",
	} {
		write(filepath.Join(dir, name), text)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSources(t, Options{Files: []string{dir}})
	at := func(name string) string { return "file:" + filepath.Join(dir, name) }
	gives(t, s, at("key"), "canary")
	gives(t, s, at("crlf"), "canary")
	gives(t, s, at("two"), "canary\n") // which no header field takes
	gives(t, s, at("binary"), "\x00\xff\x80canary")
	gives(t, s, at("most"), strings.Repeat("k", MaxSecret))
	refuses(t, s, at("huge"), pool.CodeInvalid, "more than 65536 bytes")
	refuses(t, s, at("empty"), pool.CodeInvalid, "is empty")
	refuses(t, s, at("spaces"), pool.CodeInvalid, "is empty")
	refuses(t, s, at("page"), pool.CodeUnavailable, "page of markup")
	refuses(t, s, at("gone"), pool.CodeUnavailable, "no such file")
	refuses(t, s, at("pipe"), pool.CodeInvalid, "not a regular file")
	refuses(t, s, at("..data"), pool.CodeInvalid, "not a regular file")
	refuses(t, s, at("out"), pool.CodeInvalid, "symbolic link")
	refuses(t, s, at("climbs"), pool.CodeInvalid, "symbolic link")
	refuses(t, s, at("dir/shadow"), pool.CodeInvalid, "symbolic link")
	refuses(t, s, at("loop"), pool.CodeUnavailable, "cannot be read")
	refuses(t, s, at("sluice.identity"), pool.CodeInvalid, "vault's identity")
	for _, outside := range []string{
		"file:" + elsewhere + "/shadow", "file:/etc/shadow", "file:/proc/self/environ", "file:" + dir, "file:" + dir + "x/key",
	} {
		refuses(t, s, outside, pool.CodeInvalid, "secrets.files")
	}
	for _, crooked := range []string{
		"file:" + dir + "/../" + filepath.Base(elsewhere) + "/shadow", "file:key", "file:./key", "file://" + dir + "/key", "file:" + dir + "/./key", "file:" + dir + "/k\x00",
	} {
		refuses(t, s, crooked, pool.CodeInvalid, "absolute path")
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	refuses(t, s, at("key"), pool.CodeUnavailable, "no such file")
}

// script is a command that is called as others are, and does what it is told.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommands(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a namespace for what a command starts needs root")
	}
	values := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(values, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	show := script(t, `printf '%s\n' "$#" "$1" "$2" >&2; printf 'of %s' "$2"`)
	all := []string{"*"}
	commands := map[string]Command{
		"show":    {Argv: []string{show, "read", "x/{ref}/y"}, Refs: []string{"agents/*", "one", "$(id)*", "a b*", "'*"}},
		"env":     {Argv: []string{script(t, `env | sort | tr '\n' ' '`), "{ref}"}, Refs: all, Environment: map[string]string{"HOME": "/h"}, EnvironmentFiles: map[string]string{"TOKEN": values}},
		"nofile":  {Argv: []string{show, "{ref}"}, Refs: all, EnvironmentFiles: map[string]string{"TOKEN": values + "x"}},
		"who":     {Argv: []string{"sh", "-c", "id -u; id -g; id -G", "{ref}"}, Refs: all, UID: 65534, GID: 65533},
		"fails":   {Argv: []string{script(t, "echo canary; echo canary >&2; exit 3"), "{ref}"}, Refs: all},
		"asks":    {Argv: []string{script(t, "read answer; echo got=$answer"), "{ref}"}, Refs: all},
		"floods":  {Argv: []string{script(t, "yes canary"), "{ref}"}, Refs: all},
		"missing": {Argv: []string{"/nowhere/tool", "{ref}"}, Refs: all},
		"silent":  {Argv: []string{script(t, ":"), "{ref}"}, Refs: all},
	}
	s := newSources(t, Options{Commands: commands})
	gives(t, s, "command:show:one", "of x/one/y")
	gives(t, s, "command:show:agents/a", "of x/agents/a/y")
	gives(t, s, "command:show:$(id)`id`;id", "of x/$(id)`id`;id/y") // no shell
	gives(t, s, "command:show:a b\"c", "of x/a b\"c/y")
	gives(t, s, "command:env:x", "HOME=/h LANG=C.UTF-8 PATH="+commandPath+" PWD=/ TOKEN=from-a-file ")
	gives(t, s, "command:who:x", "65534\n65533\n65533")
	gives(t, s, "command:asks:x", "got=")
	refuses(t, s, "command:show:other", pool.CodeInvalid, "secrets.command.show.refs")
	refuses(t, s, "command:show:agents/../other", pool.CodeInvalid, "secrets.command.show.refs")
	refuses(t, s, "command:show:-x", pool.CodeInvalid, "option")
	refuses(t, s, "command:show:one\ntwo", pool.CodeInvalid, "not like")
	refuses(t, s, "command:show", pool.CodeInvalid, "not like")
	refuses(t, s, "command:fails:x", pool.CodeUnavailable, "status 3", "as uid 0")
	refuses(t, s, "command:floods:x", pool.CodeInvalid, "more than 65536 bytes")
	refuses(t, s, "command:missing:x", pool.CodeInvalid, "/nowhere/tool", "install it")
	refuses(t, s, "command:silent:x", pool.CodeInvalid, "is empty")
	refuses(t, s, "command:nofile:x", pool.CodeUnavailable, "TOKEN", "no such file")
}

// A pipe that nobody writes to is not waited for: who waits for a source has the daemon wait
// with its end.
func TestFilesOfTheConfigurationThatArePipes(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSources(t, Options{
		HashiCorp: HashiCorp{Address: "http://127.0.0.1:1", TokenFile: pipe},
		Commands:  map[string]Command{"op": {Argv: []string{"true", "{ref}"}, Refs: []string{"*"}, EnvironmentFiles: map[string]string{"TOKEN": pipe}}},
	})
	refuses(t, s, "vault:secret/x#y", pool.CodeInvalid, pipe, "not a regular file", "token_file")
	refuses(t, s, "command:op:x", pool.CodeInvalid, pipe, "not a regular file", "TOKEN")
}

// A command that hangs is killed when its time is up, with all that it has started: what
// is in a session of its own, too, and what holds its output open.
func TestACommandThatHangsLeavesNothing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a namespace for what a command starts needs root")
	}
	mark := fmt.Sprintf("86%d", os.Getpid()) // seconds that nobody else sleeps
	for name, text := range map[string]string{
		"itself": "exec sleep " + mark, "a child": "sleep " + mark + " & wait", "a session of its own": "setsid sleep " + mark + " & wait",
		"a child that it left": "setsid sleep " + mark + " >/dev/null & exit 0", "one that ignores signals": "trap '' TERM INT HUP; sleep " + mark,
		"one that holds the output": "setsid sleep " + mark + " & printf canary",
	} {
		s := newSources(t, Options{Commands: map[string]Command{
			"hangs": {Argv: []string{script(t, text), "{ref}"}, Refs: []string{"*"}, Timeout: 300 * time.Millisecond},
		}})
		began := time.Now()
		_, err := s.Fetch(t.Context(), "command:hangs:x", false)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: took %s, %v", name, took, err)
		}
		if strings.Contains(name, "ignores") && (err == nil || !strings.Contains(err.Error(), "within 1s")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	s := newSources(t, Options{Commands: map[string]Command{"hangs": {Argv: []string{"sleep", mark + "{ref}"}, Refs: []string{"*"}}}})
	if _, err := s.Fetch(ctx, "command:hangs:0", false); err == nil {
		t.Error("a command that somebody waits for no more goes on")
	}
	if left := sleeping(t, mark); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// sleeping are the processes that have the mark in their arguments.
func sleeping(t *testing.T, mark string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, _ := os.ReadFile(file) // it may have ended
		if strings.HasPrefix(string(text), "sleep\x00"+mark) {
			pids = append(pids, file)
		}
	}
	return pids
}

func TestCommandsThatAreNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Command{
		"argv": {Refs: []string{"*"}}, "argv: the first": {Argv: []string{"{ref}"}, Refs: []string{"*"}},
		"{ref} is missing": {Argv: []string{"op"}, Refs: []string{"*"}}, "refs": {Argv: []string{"op", "{ref}"}},
		"timeout":     {Argv: []string{"op", "{ref}"}, Refs: []string{"*"}, Timeout: time.Hour},
		"environment": {Argv: []string{"op", "{ref}"}, Refs: []string{"*"}, Environment: map[string]string{"A=B": "c"}},
	} {
		if _, err := New(Options{Commands: map[string]Command{"op": c}}); err == nil || !strings.Contains(err.Error(), "secrets.command.op: ") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"A", "A", true}, {"A", "AB", false}, {"A*", "AB", true}, {"A*", "BA", false}, {"*", "x", true}, {"", "", true}, {"", "x", false}, {"A*B", "AxB", false},
	} {
		if Matches([]string{c.pattern}, c.name) != c.want {
			t.Errorf("%q matches %q: %t", c.pattern, c.name, !c.want)
		}
	}
}
