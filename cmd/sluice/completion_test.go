package main

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// offered is what sluice tells a shell that the last of the words may be, without what it
// says about each.
func offered(t *testing.T, socket string, words ...string) (found []string, directive string) {
	t.Helper()
	cmd := command(t, []string{"SLUICE_SOCKET=" + socket}, append([]string{"__complete"}, words...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", words, err)
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if d, last := strings.CutPrefix(name, ":"); last {
			return found, d
		}
		found = append(found, name)
	}
	t.Fatalf("%v: no directive: %s", words, out)
	return nil, ""
}

// What cobra's directives of these tests add up to.
const (
	noFiles        = "4"
	noFilesNoSpace = "6"
	directories    = "16"
	anyFile        = "0"
)

func sorted(words string) []string {
	all := strings.Fields(words)
	slices.Sort(all)
	return all
}

// Without a daemon there are no names, and nothing else happens; the rest is offered.
func TestCompletionWithoutDaemon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	silent := filepath.Join(dir, "silent") // a socket on which nobody answers
	listener, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, c := range []struct {
		words     string
		want      string
		directive string
	}{
		{"pool status ", "", noFiles},
		{"detach ", "", noFiles},
		{"pool create new --members ", "", noFilesNoSpace},
		{"-o ", "table json", noFiles},
		{"version --color ", "auto always never", noFiles},
		{"version ", "", noFiles},
		{"cred add ", "", noFiles},
		{"attach --selector ", "", noFiles},
		{"attach --cgroup ", "", directories},
		{"serve --state-dir ", "", directories},
		{"serve --config ", "", anyFile},
		{"audit verify ", "", anyFile},
		{"run -- ", "", anyFile},
		{"completion ", "bash zsh fish powershell", noFiles},
		{"help pool st", "status", noFiles},
	} {
		for _, socket := range []string{filepath.Join(dir, "nothing"), silent} {
			begin := time.Now()
			found, directive := offered(t, socket, strings.Split(c.words, " ")...)
			if slices.Sort(found); !slices.Equal(found, sorted(c.want)) || directive != c.directive {
				t.Errorf("%q: %v and %s, want %s and %s", c.words, found, directive, c.want, c.directive)
			}
			if took := time.Since(begin); took > 10*tabLimit {
				t.Errorf("%q took %s", c.words, took)
			}
		}
	}
}
