package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// What the process that is killed is told by.
const (
	rekeyDir  = "SLUICE_TEST_REKEY_DIR"
	rekeyStep = "SLUICE_TEST_REKEY_STEP"
)

// The steps of a rekey after which a process is killed.
const (
	nextWritten = "the new identity is written"
	oneSealed   = "one secret is encrypted anew"
	allSealed   = "all are, and nothing is committed"
	committed   = "the transaction is committed"
	promoted    = "the new identity is in place"
	scrubbed    = "the database is written anew"
)

func identityIn(dir string) string { return filepath.Join(dir, "identity") }

// rekeyInChild dies by SIGKILL after a step.
func rekeyInChild(dir, step string) error {
	ctx := context.Background()
	at := func(name string) {
		if name == step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	db, err := store.Open(ctx, dir)
	if err != nil {
		return err
	}
	sealed, err := db.Sealed(ctx)
	if err != nil {
		return err
	}
	err = vault.Rekey(vault.Options{File: identityIn(dir), Sealed: sealed}, func(seal func([]byte) ([]byte, error)) error {
		at(nextWritten)
		done := 0
		err := db.Reseal(ctx, func(data []byte) ([]byte, error) {
			again, err := seal(data)
			if done++; done == 1 {
				at(oneSealed)
			} else if done == len(sealed) {
				at(allSealed)
			}
			return again, err
		})
		at(committed)
		return err
	})
	if err != nil {
		return err
	}
	at(promoted)
	if err := db.Scrub(ctx); err != nil {
		return err
	}
	at(scrubbed)
	return errors.New("no such step")
}

// TestNoSecretIsLostToAKillOfARekey kills a process after each step. Whoever opens the
// vault next finds every secret, one identity, and can rekey.
func TestNoSecretIsLostToAKillOfARekey(t *testing.T) {
	t.Parallel()
	for step, changed := range map[string]bool{
		nextWritten: false, oneSealed: false, allSealed: false, committed: true, promoted: true, scrubbed: true,
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sealSecrets(t, dir)
			before := readIdentity(t, dir)
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), rekeyDir+"="+dir, rekeyStep+"="+step, "GORACE=atexit_sleep_ms=0")
			out, err := child.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("not killed: %v: %s", err, out)
			}
			wantSecrets(t, dir)
			if got := !bytes.Equal(readIdentity(t, dir), before); got != changed {
				t.Errorf("there is a new identity: %t, want %t", got, changed)
			}
			rekey(t, dir)
			wantSecrets(t, dir)
		})
	}
}

// What a kill in the middle of writing the new identity, or an older interruption, leaves
// is in nobody's way.
func TestARekeyGoesOverWhatIsLeftOfOne(t *testing.T) {
	t.Parallel()
	for _, torn := range []string{"", "AGE-SECRET-KEY-1"} {
		dir := t.TempDir()
		sealSecrets(t, dir)
		if err := os.WriteFile(identityIn(dir)+".next", []byte(torn), 0o600); err != nil {
			t.Fatal(err)
		}
		rekey(t, dir)
		wantSecrets(t, dir)
	}
}

// A rekey is done because the identity before may be known: what was sealed for it must
// not be left in the file, or the rekey changes nothing.
func TestARekeyLeavesNothingThatTheOldIdentityOpens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := sealSecrets(t, dir)
	rekey(t, dir)
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range old {
			if bytes.Contains(text, s.Data[len(s.Data)-32:]) {
				t.Errorf("%s still holds what was sealed of %s", f, s.Name)
			}
		}
	}
	wantSecrets(t, dir)
}

// A secret that cannot be encrypted anew leaves all of them as they are.
func TestAResealIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sealSecrets(t, dir)
	db := open(t, dir)
	n := 0
	err := db.Reseal(t.Context(), func([]byte) ([]byte, error) {
		if n++; n == 2 {
			return nil, errors.New("refused")
		}
		return []byte("other"), nil
	})
	if err == nil || n != 2 {
		t.Fatalf("%v after %d", err, n)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	wantSecrets(t, dir)
}

func open(t *testing.T, dir string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func secretOf(i int) string { return fmt.Sprintf("sk-canary-%d", i) }

// sealSecrets stores three secrets in a new state directory.
func sealSecrets(t *testing.T, dir string) []vault.Sealed {
	t.Helper()
	v, err := vault.Open(vault.Options{File: identityIn(dir)})
	if err != nil {
		t.Fatal(err)
	}
	db := open(t, dir)
	for i := range 3 {
		data, err := v.Encrypt(vault.NewSecret([]byte(secretOf(i))))
		if err != nil {
			t.Fatal(err)
		}
		r := pool.CredentialRecord{Credential: pool.Credential{Name: fmt.Sprint("cred", i), Type: pool.Static}, Sealed: data}
		if err := db.AddCredential(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	all, err := db.Sealed(t.Context())
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return all
}

func readIdentity(t *testing.T, dir string) []byte {
	t.Helper()
	text, err := os.ReadFile(identityIn(dir))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func rekey(t *testing.T, dir string) {
	t.Helper()
	db := open(t, dir)
	all, err := db.Sealed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := readIdentity(t, dir)
	err = vault.Rekey(vault.Options{File: identityIn(dir), Sealed: all}, func(seal func([]byte) ([]byte, error)) error {
		return db.Reseal(t.Context(), seal)
	})
	if err := errors.Join(err, db.Scrub(t.Context()), db.Close()); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(readIdentity(t, dir), before) {
		t.Error("the identity is the same")
	}
}

// wantSecrets opens the vault as a daemon does and reads every secret.
func wantSecrets(t *testing.T, dir string) {
	t.Helper()
	db := open(t, dir)
	all, err := db.Sealed(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("%d secrets: %v", len(all), err)
	}
	v, err := vault.Open(vault.Options{File: identityIn(dir), Sealed: all})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		plain, err := v.Decrypt(s.Data)
		if err != nil || string(plain.Bytes()) != secretOf(i) {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(identityIn(dir) + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if st, err := os.Stat(identityIn(dir)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("identity: %v %v", st, err)
	}
}
