package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who may write to the state directory, or to what is in it, can have the daemon take another CA for its own.
func TestADaemonRefusesAStateDirectoryOfOthers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, path string // below the state directory
		mode       os.FileMode
		want       string // "" if it is used
	}{
		{"its own", ".", 0o700, ""},
		{"made by an engine", ".", 0o755, ""},
		{"a group writes", ".", 0o770, "0770"},
		{"all write", ".", 0o777, "0777"},
		{"all write, each their own", ".", 0o777 | os.ModeSticky, "0777"},
		{"a directory in it", "ca", 0o777, "0777"},
		{"the database", "sluice.db", 0o666, "0666"},
		{"it may be read", "sluice.db", 0o644, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := stateWith(t, "c2stY2FuYXJ5")
			if err := os.Mkdir(filepath.Join(dir, "ca"), 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, c.path)
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			err := openParts(t, dir)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), path+" may be written to by others (mode "+c.want) || !strings.Contains(err.Error(), "chmod -R go-w "+path) {
				t.Fatalf("error is %v, want one that says what to do about %s", err, path)
			}
		})
	}
	// Nobody gets to what is inside: its modes say nothing.
	dir := stateWith(t, "c2stY2FuYXJ5")
	if err := os.Chmod(filepath.Join(dir, "sluice.db"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := openParts(t, dir); err != nil {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(dir, 4711, -1); err != nil {
		t.Fatal(err)
	}
	if err := openParts(t, dir); err == nil || !strings.Contains(err.Error(), dir+" belongs to uid 4711") || !strings.Contains(err.Error(), "chown -R 0 "+dir) {
		t.Errorf("error is %v, want one about the owner", err)
	}
}
