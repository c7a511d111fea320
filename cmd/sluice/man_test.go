package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestManual writes the pages and has man's own formatter read each: no command is
// without one, and each says what the command's help says.
func TestManual(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	root := newRoot(defaultEnv())
	root.SetArgs([]string{manName, dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, command := range commandLines() {
		if strings.HasPrefix(command, "__") {
			continue
		}
		page := filepath.Join(dir, "sluice-"+strings.ReplaceAll(command, " ", "-")+".1")
		text, err := os.ReadFile(page)
		if err != nil {
			t.Errorf("%s has no page: %v", command, err)
			continue
		}
		cmd, _, err := root.Find(strings.Fields(command))
		if err != nil || !strings.Contains(string(text), strings.ReplaceAll(cmd.Short, "-", "\\-")) && !strings.Contains(string(text), cmd.Short) {
			t.Errorf("%s: its page does not say %q", command, cmd.Short)
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	if _, err := exec.LookPath("groff"); err != nil {
		lacking(t, "groff is not installed, scripts/deps.sh does it")
	}
	for _, page := range pages {
		if out, err := exec.Command("groff", "-man", "-ww", "-z", "-Tutf8", page).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", filepath.Base(page), err, out)
		}
	}
}
