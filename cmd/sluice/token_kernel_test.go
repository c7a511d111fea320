package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/control/api"
)

// TestTokenOnAFullDisk: the tokens that there are count on.
func TestTokenOnAFullDisk(t *testing.T) {
	t.Parallel()
	kerneltest.Require(t)
	dir := t.TempDir()
	if err := unix.Mount("sluice-small", dir, "tmpfs", 0, "size=4k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(dir, "tokens")
	if _, err := api.AddToken(file, "laptop"); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before = append(before, "#"+strings.Repeat("-", 4050-len(before))+"\n"...)
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.AddToken(file, "ci"); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("a token that there is no room for: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("left are %d bytes, not %d: %v", len(after), len(before), err)
	}
	if _, err := api.OpenTokens(file); err != nil {
		t.Error(err)
	}
}
