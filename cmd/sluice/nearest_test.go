package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// The word that is no command is found between flags and their values.
func TestFirstWord(t *testing.T) {
	t.Parallel()
	root := newRoot(env{getenv: func(string) string { return "" }})
	pools, _, err := root.Find([]string{"pool"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		cmd  *cobra.Command
		args string
		want string
	}{
		{root, "poool list", "poool"},
		{root, "--socket poool list", "list"},
		{root, "--socket=x poool", "poool"},
		{root, "-o json poool", "poool"},
		{root, "-ojson poool", "poool"},
		{root, "--nonesuch poool", "poool"},
		{root, "--nonesuch", ""},
		{root, "-- poool", ""},
		{pools, "pool creat main --members x", "creat"},
		{pools, "-o json pool -o table creat", "creat"},
		{pools, "pool --nonesuch", ""},
	} {
		if got := firstWord(tc.cmd, strings.Fields(tc.args)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.args, got, tc.want)
		}
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for want, seconds := range map[string]int{
		"0s": 0, "59s": 59, "1m": 60, "1m05s": 65, "41m": 41*60 + 20, "2h14m": 2*3600 + 14*60, "47h00m": 47 * 3600, "2d3h": 51 * 3600,
	} {
		if got := span(time.Duration(seconds) * time.Second); got != want {
			t.Errorf("%d s: %q, want %q", seconds, got, want)
		}
	}
}
