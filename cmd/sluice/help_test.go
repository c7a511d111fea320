package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// walk calls each for every command a person can see.
func walk(cmd *cobra.Command, each func(*cobra.Command)) {
	if cmd.Hidden || cmd.Name() == "help" {
		return
	}
	each(cmd)
	for _, child := range cmd.Commands() {
		walk(child, each)
	}
}

// Help is what people read first: it changes on purpose only.
// SLUICE_UPDATE=1 writes it anew.
func TestHelpGolden(t *testing.T) {
	t.Parallel()
	var all bytes.Buffer
	walk(newRoot(env{ctx: context.Background()}), func(cmd *cobra.Command) {
		var out bytes.Buffer
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		status := sluice(env{ctx: t.Context(), stdin: strings.NewReader(""), stdout: &out, stderr: &out, getenv: func(string) string { return "" }}, args)
		if status != exitDone {
			t.Errorf("%v: status %d", args, status)
		}
		all.WriteString("$ " + cmd.CommandPath() + " --help\n" + out.String() + "\n")
	})
	golden := filepath.Join("testdata", "help.txt")
	if os.Getenv("SLUICE_UPDATE") != "" {
		if err := os.WriteFile(golden, all.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), all.String()); diff != "" {
		t.Errorf("help has changed; if that is meant, SLUICE_UPDATE=1 go test (-want +got):\n%s", diff)
	}
}

// Every command says what it is for, and every flag too.
func TestHelpComplete(t *testing.T) {
	t.Parallel()
	walk(newRoot(env{ctx: context.Background()}), func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short text %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.Args == nil {
			t.Errorf("%s: takes whatever arguments it is given", cmd.CommandPath())
		}
		for _, name := range flagNames(cmd) {
			flag := cmd.Flag(name)
			if flag.Usage == "" {
				t.Errorf("%s --%s: no text", cmd.CommandPath(), name)
			}
		}
	})
}
