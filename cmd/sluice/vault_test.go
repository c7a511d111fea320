package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// stateWith makes a state directory in which a credential is sealed that no pool holds.
func stateWith(t *testing.T, secret string) string {
	t.Helper()
	dir := t.TempDir()
	v, err := vault.Open(vault.Options{File: identityFile(dir)})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := v.Encrypt(vault.NewSecret([]byte(`{"secret":"` + secret + `"}`)))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	record := pool.CredentialRecord{Credential: pool.Credential{Name: "work", Type: pool.Static}, Sealed: sealed}
	if err := errors.Join(db.AddCredential(t.Context(), record), db.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// openParts opens a daemon's store and vault alone.
func openParts(t *testing.T, stateDir string) error {
	t.Helper()
	d := &sluiced{cfg: config{StateDir: stateDir}}
	err := d.openStore(t.Context())
	if err == nil {
		err = d.openVault(t.Context())
	}
	return errors.Join(err, d.close())
}

// Another identity made in place of a lost one would look as if all were well, until the
// first request, and would be in the way of the one that somebody restores.
func TestADaemonDoesNotReplaceALostIdentity(t *testing.T) {
	t.Parallel()
	dir := stateWith(t, "c2stY2FuYXJ5")
	kept := filepath.Join(t.TempDir(), "identity")
	if err := os.Rename(identityFile(dir), kept); err != nil {
		t.Fatal(err)
	}
	err := openParts(t, dir)
	if !errors.Is(err, vault.ErrNoIdentity) || !strings.Contains(err.Error(), "restore it") {
		t.Fatalf("error is %v, want one that says what to do", err)
	}
	if _, err := os.Stat(identityFile(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("an identity was made: %v", err)
	}
	if err := os.Rename(kept, identityFile(dir)); err != nil {
		t.Fatal(err)
	}
	if err := openParts(t, dir); err != nil {
		t.Fatalf("restored, and yet: %v", err)
	}
}

// rekeyCommand runs `sluice vault rekey`.
func rekeyCommand(t *testing.T, stateDir string, more ...string) (out string, status int) {
	t.Helper()
	var text bytes.Buffer
	e := env{ctx: t.Context(), stdin: strings.NewReader(""), stdout: &text, stderr: &text, getenv: func(string) string { return "" }}
	status = sluice(e, append([]string{"vault", "rekey", "--state-dir", stateDir}, more...))
	return text.String(), status
}

func TestRekeyCommand(t *testing.T) {
	t.Parallel()
	dir := stateWith(t, "c2stY2FuYXJ5")
	before, err := os.ReadFile(identityFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	out, status := rekeyCommand(t, dir, "-o", "json")
	if status != exitDone || !strings.Contains(out, `"credentials": 1`) {
		t.Fatalf("status %d: %s", status, out)
	}
	after, err := os.ReadFile(identityFile(dir))
	if err != nil || bytes.Equal(before, after) {
		t.Fatalf("the identity is the same (%v)", err)
	}
	if strings.Contains(out, "AGE-SECRET-KEY") {
		t.Error("the identity is shown")
	}
	if err := openParts(t, dir); err != nil {
		t.Fatal(err)
	}
}

func TestRekeyCommandRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, dir string)
		says  string
	}{
		"while a daemon runs": {func(t *testing.T, dir string) {
			d := &sluiced{cfg: config{StateDir: dir}}
			if err := d.openStore(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = d.close() })
		}, "stop that one"},
		"without a state directory": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, "--state-dir says where"},
		"without an identity": {func(t *testing.T, dir string) {
			if err := os.Remove(identityFile(dir)); err != nil {
				t.Fatal(err)
			}
		}, "restore it"},
		// The file is still there, but the daemon would not look at it.
		"an identity of systemd's": {func(t *testing.T, dir string) {
			credentials := t.TempDir()
			text, err := os.ReadFile(identityFile(dir))
			if err == nil {
				err = os.WriteFile(filepath.Join(credentials, vault.CredentialName), text, 0o400)
			}
			if err != nil {
				t.Fatal(err)
			}
			d := &sluiced{cfg: config{StateDir: dir, CredentialDir: credentials}}
			if err := errors.Join(d.openStore(t.Context()), d.openVault(t.Context()), d.close()); err != nil {
				t.Fatal(err)
			}
		}, "take LoadCredential= out of the unit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := stateWith(t, "c2stY2FuYXJ5")
			tc.spoil(t, dir)
			before, _ := os.ReadFile(identityFile(dir))
			out, status := rekeyCommand(t, dir)
			if status != exitFailed || !strings.Contains(out, tc.says) || strings.Count(out, "\n") != 1 {
				t.Errorf("status %d, want one line with %q: %s", status, tc.says, out)
			}
			if after, _ := os.ReadFile(identityFile(dir)); !bytes.Equal(before, after) {
				t.Error("the identity was touched")
			}
		})
	}
}

// Once the identity is in a file again, and a daemon has seen it there, it can be rekeyed.
func TestRekeyAfterSystemdHandedItBack(t *testing.T) {
	t.Parallel()
	dir := stateWith(t, "c2stY2FuYXJ5")
	db, err := openState(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.SetIdentityGiven(t.Context(), true), db.Close()); err != nil {
		t.Fatal(err)
	}
	if out, status := rekeyCommand(t, dir); status != exitFailed {
		t.Fatalf("status %d: %s", status, out)
	}
	if err := openParts(t, dir); err != nil {
		t.Fatal(err)
	}
	if out, status := rekeyCommand(t, dir); status != exitDone {
		t.Fatalf("status %d: %s", status, out)
	}
}
