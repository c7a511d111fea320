package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGuestsOfOtherRuntimes: with another runtime in the configuration a pool's container is reached by the client of that
// name, and its agent is reset there.
func TestGuestsOfOtherRuntimes(t *testing.T) {
	for _, c := range []struct{ runtime, client, want string }{
		{"apple", "container", "exec --user 10000:10000 --env-file FILE --workdir / box hermes auth reset openai-codex"},
		{"tart", "tart", "exec box sudo -n -u #10000 -g #10000 -- env HOME=/ LOGNAME=10000 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin USER=10000 hermes auth reset openai-codex"},
	} {
		t.Run(c.runtime, func(t *testing.T) {
			bin := t.TempDir()
			record := filepath.Join(bin, "record")
			// A stand-in for a client of macOS' that has no files in its guest, and runs everything else.
			script := "#!/bin/sh\necho \"$*\" >>" + record + "\ncase \"$*\" in *' cat -- '*) echo 'cat: No such file or directory' >&2; exit 1 ;; esac\necho done\n"
			if err := os.WriteFile(filepath.Join(bin, c.client), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			h := newEmptyHouse(t, nil, nil, fmt.Sprintf("[containers]\nruntime = %q\n", c.runtime))
			h.sluice("sk-guest", "cred", "add", "a1")
			h.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai", "--auth-reset-target", "openai-codex", "--container", "box")
			if said := h.sluice("", "pool", "reset-agent", "openai"); !strings.Contains(said, "succeeded") || !strings.Contains(said, "done") {
				t.Errorf("the reset: %s", said)
			}
			text, err := os.ReadFile(record)
			if err != nil {
				t.Fatal(err)
			}
			var ran []string
			for line := range strings.Lines(string(text)) {
				words := strings.Fields(line)
				for i := range words {
					if i > 0 && words[i-1] == "--env-file" {
						words[i] = "FILE"
					}
				}
				if line = strings.Join(words, " "); !strings.Contains(line, " cat -- ") {
					ran = append(ran, line)
				}
			}
			if len(ran) != 1 || ran[0] != c.want {
				t.Errorf("the client was asked to run %q, want %q", ran, c.want)
			}
		})
	}
}
