package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who may not do it is told how root does, with all that was given: without it, another state would be meant.
func TestWhatRootIsToRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // which is the test's own
		t.Fatal(err)
	}
	state := filepath.Join(dir, "a state")
	if err := os.Mkdir(state, 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	where := "--config " + config + " --state-dir '" + state + "'"
	for command, want := range map[string]string{
		"vault rekey":          "sudo sluice vault rekey " + where,
		"backup it's.gz":       "sudo sluice backup " + where + ` 'it'\''s.gz'`,
		"restore -":            "sudo sluice restore " + where + " -",
		"audit verify":         "sudo sluice audit verify " + where,
		"-o json audit verify": "sudo sluice audit verify --config " + config + " --output json --state-dir '" + state + "'",
	} {
		unprivileged(t, func() {
			var out bytes.Buffer
			e := env{ctx: t.Context(), stdin: strings.NewReader(""), stdout: &out, stderr: &out, getenv: func(string) string { return "" }}
			status := sluice(e, append(strings.Fields(command), "--state-dir", state, "--config", config))
			if status != exitFailed || !strings.HasSuffix(out.String(), "run it as root: "+want+"\n") {
				t.Errorf("%s: status %d, %s, want %s", command, status, out.String(), want)
			}
		})
	}
	// What the package makes of /etc/sluice is root's alone, too.
	unprivileged(t, func() {
		private := filepath.Join(state, "config.toml")
		_, errs, status := offline(t, "", "audit", "verify", "--config", private)
		if want := "run it as root: sudo sluice audit verify --config '" + private + "'\n"; status != exitFailed || !strings.HasSuffix(errs, want) {
			t.Errorf("status %d, %s, want %s", status, errs, want)
		}
	})
}
