package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestABackupIsRestored takes a backup of a daemon that serves, loses the state, and
// goes on from the backup: who was out is out, and what came later is not there.
func TestABackupIsRestored(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	state, file := filepath.Join(h.dir, "state"), filepath.Join(h.dir, "backup.tar.gz")
	if err := h.sim.Spend("first", time.Hour); err != nil {
		t.Fatal(err)
	}
	h.chat("-d", chatBody)
	ca, status := h.sluice("", "ca", "show"), h.sluice("", "pool", "list")
	if got := h.sluice("", "backup", file, "--state-dir", state); got != file+"\n" {
		t.Fatalf("backup printed %q", got)
	}
	h.sluice("later", "cred", "add", "later")
	h.daemon.kill()
	if err := os.Rename(state, state+".before"); err != nil {
		t.Fatal(err)
	}
	h.sluice("", "restore", file, "--state-dir", state)
	h.start()
	if got := h.sluice("", "ca", "show"); got != ca {
		t.Error("agents would have to trust another CA")
	}
	if got := h.sluice("", "pool", "list"); got != status {
		t.Errorf("the pools were\n%s\nand are\n%s", status, got)
	}
	if got := h.active("openai"); got != "second" || strings.Contains(h.sluice("", "cred", "list"), "later") {
		t.Errorf("%s is active", got)
	}
	before := h.sim.Journal().Last()
	h.chat("-d", chatBody)
	if seen := h.seen(before, 1); seen[0].Credential != "second" {
		t.Errorf("%s was asked, who is out", seen[0].Credential)
	}
	h.until("the audit log holds", func() bool {
		_, err := h.try("audit", "verify", "--state-dir", state)
		return err == nil
	})
}
