package vault

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

// sealedFor seals a secret for the identity in a file, which is made if need be.
func sealedFor(t *testing.T, path string) []Sealed {
	t.Helper()
	v, err := Open(Options{File: path})
	if err != nil {
		t.Fatal(err)
	}
	data, err := v.Encrypt(NewSecret([]byte("canary-secret")))
	if err != nil {
		t.Fatal(err)
	}
	return []Sealed{{"work", data}}
}

// listing is everything in a directory: names, modes and contents.
func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(info.Name() + " " + info.Mode().String())
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
		all.WriteString("\n")
	}
	return all.String()
}

func TestAnIdentityThatIsNoGoodIsToldAndTouchesNothing(t *testing.T) {
	t.Parallel()
	write := func(t *testing.T, path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, file, credentials string)
		is    error
		says  []string
	}{
		"missing": {
			spoil: func(t *testing.T, file, _ string) { remove(t, file) },
			is:    ErrNoIdentity, says: []string{"sealed for it (1)", "restore it", "add the credentials again"},
		},
		"of another state directory": {
			spoil: func(t *testing.T, file, _ string) {
				remove(t, file)
				sealedFor(t, file)
			},
			is: ErrIdentity, says: []string{"credential work", "restore the old one"},
		},
		"systemd's is another one": {
			spoil: func(t *testing.T, _, credentials string) { sealedFor(t, filepath.Join(credentials, CredentialName)) },
			is:    ErrIdentity, says: []string{CredentialName, "restore the old one"},
		},
		"systemd's is no identity": {
			spoil: func(t *testing.T, _, credentials string) {
				write(t, filepath.Join(credentials, CredentialName), "AGE-SECRET-KEY-1CANARY", 0o400)
			},
			says: []string{CredentialName, "is not an age identity"},
		},
		"nonsense": {
			spoil: func(t *testing.T, file, _ string) { write(t, file, "AGE-SECRET-KEY-1CANARY", 0o600) },
			says:  []string{"is not an age identity", "restore it"},
		},
		"cut off": {
			spoil: func(t *testing.T, file, _ string) { write(t, file, "", 0o600) },
			says:  []string{"is not an age identity"},
		},
		"two of them": {
			spoil: func(t *testing.T, file, _ string) {
				one, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				write(t, file, string(one)+string(one), 0o600)
			},
			says: []string{"is not an age identity"},
		},
		"read by the group": {
			spoil: func(t *testing.T, file, _ string) { chmod(t, file, 0o640) },
			says:  []string{"mode 0640", "chmod 600 ", "vault rekey"},
		},
		"read by all": {
			spoil: func(t *testing.T, file, _ string) { chmod(t, file, 0o604) },
			says:  []string{"mode 0604", "chmod 600 "},
		},
		"a named pipe": {
			spoil: func(t *testing.T, file, _ string) {
				remove(t, file)
				if err := unix.Mkfifo(file, 0o600); err != nil {
					t.Fatal(err)
				}
			},
			says: []string{"not a regular file"},
		},
		"a directory": {
			spoil: func(t *testing.T, file, _ string) {
				remove(t, file)
				if err := os.Mkdir(file, 0o700); err != nil {
					t.Fatal(err)
				}
			},
			says: []string{"not a regular file"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, credentials := t.TempDir(), t.TempDir()
			file := filepath.Join(dir, "identity")
			opts := Options{File: file, CredentialDir: credentials, Sealed: sealedFor(t, file)}
			tc.spoil(t, file, credentials)
			before := listing(t, dir) + listing(t, credentials)
			_, err := Open(opts)
			if err == nil || (tc.is != nil && !errors.Is(err, tc.is)) {
				t.Fatalf("error is %v, want %v", err, tc.is)
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "CANARY") {
				t.Errorf("what is in the file is shown: %v", err)
			}
			if after := listing(t, dir) + listing(t, credentials); after != before {
				t.Errorf("something was touched: %s\nbefore: %s", after, before)
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherUsersIdentityIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("giving a file away needs root")
	}
	path := filepath.Join(t.TempDir(), "identity")
	sealedFor(t, path)
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{File: path}); err == nil || !strings.Contains(err.Error(), "chown 0 "+path) {
		t.Fatalf("got %v, want what to do about the owner", err)
	}
}

// What systemd hands over wins; it has a mode of its own, and no file is made beside it.
func TestTheIdentityThatSystemdHandsOver(t *testing.T) {
	t.Parallel()
	dir, credentials := t.TempDir(), t.TempDir()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(credentials, CredentialName)
	text := "# created: 2026-11-24T00:00:00Z\n# public key: " + identity.Recipient().String() + "\n" + identity.String() + "\n"
	if err := os.WriteFile(path, []byte(text), 0o440); err != nil {
		t.Fatal(err)
	}
	v, err := Open(Options{File: filepath.Join(dir, "identity"), CredentialDir: credentials})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := v.Encrypt(NewSecret([]byte("canary-secret")))
	if err != nil {
		t.Fatal(err)
	}
	if v.Path() != path {
		t.Errorf("the identity is %s, want systemd's", v.Path())
	}
	if left := listing(t, dir); left != "" {
		t.Errorf("made beside it: %s", left)
	}
	if _, err := Open(Options{File: filepath.Join(dir, "identity"), CredentialDir: credentials, Sealed: []Sealed{{"work", sealed}}}); err != nil {
		t.Fatal(err)
	}
}

// A unit may be handed other things, and no identity: then the file counts.
func TestADirectoryOfSystemdsWithoutAnIdentity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v, err := Open(Options{File: filepath.Join(dir, "identity"), CredentialDir: t.TempDir()})
	if err != nil || v.Path() != filepath.Join(dir, "identity") {
		t.Fatalf("got %v", err)
	}
}

// What systemd keeps cannot be replaced from here: the way out is said, nothing is done.
func TestAnIdentityOfSystemdsIsNotRekeyed(t *testing.T) {
	t.Parallel()
	dir, credentials := t.TempDir(), t.TempDir()
	sealed := sealedFor(t, filepath.Join(credentials, CredentialName))
	before := listing(t, credentials)
	opts := Options{File: filepath.Join(dir, "identity"), CredentialDir: credentials, Sealed: sealed}
	err := Rekey(opts, func(func([]byte) ([]byte, error)) error {
		t.Error("something was encrypted anew")
		return nil
	})
	if !errors.Is(err, ErrGiven) || !strings.Contains(err.Error(), "take LoadCredential= out of the unit") {
		t.Errorf("error is %v, want the way out", err)
	}
	if listing(t, dir) != "" || listing(t, credentials) != before {
		t.Error("something was touched")
	}
}
