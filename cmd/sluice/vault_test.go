package main

import (
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
