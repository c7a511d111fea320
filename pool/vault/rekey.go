package vault

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"
)

// nextSuffix ends the name of an identity that is about to replace the one of the name before it.
const nextSuffix = ".next"

// ErrGiven means that the identity is systemd's to keep.
var ErrGiven = errors.New("the vault's identity comes from systemd")

// Rekey replaces the identity. reseal has to put what its argument makes of each
// sealed secret in the secret's place, all of them or none, durably. Whenever the
// process dies, one of the two identities is on disk that opens everything: [Open]
// finds out which, and ends what was begun.
//
// Errors: [ErrGiven], and those of [Open].
func Rekey(opts Options, reseal func(func(sealed []byte) ([]byte, error)) error) error {
	given := fmt.Errorf("%w (%s), and only one in a file can be replaced: put it into %s (mode 0600), take LoadCredential= out of the unit, "+
		"start the daemon once and stop it, rekey, and hand the new one to systemd", ErrGiven, CredentialName, opts.File)
	if opts.Given {
		return given
	}
	v, err := Open(opts)
	if err != nil {
		return err
	}
	if v.given {
		return given
	}
	next, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("make the vault's identity: %w", err)
	}
	file := opts.File + nextSuffix
	if err := writeNew(file, next.String()+"\n"); err != nil {
		return fmt.Errorf("make the vault's identity: %w", err)
	}
	to := &Vault{identity: next, path: file}
	err = reseal(func(sealed []byte) ([]byte, error) {
		plain, err := v.Decrypt(sealed)
		if err != nil {
			return nil, err
		}
		defer plain.Zero()
		return to.Encrypt(plain)
	})
	if err != nil {
		// What became of it is not known for certain: a commit may have failed after it was
		// done. The next Open looks.
		return fmt.Errorf("the secrets are not encrypted anew: %w", err)
	}
	return promote(file, opts.File)
}

// promote puts the new identity in the old one's place.
func promote(next, file string) error {
	err := os.Rename(next, file)
	if err == nil {
		err = syncDir(filepath.Dir(file))
	}
	if err != nil {
		return fmt.Errorf("put the vault's new identity in place: %w; the next start tries again", err)
	}
	return nil
}

// writeNew writes a file that must not exist, mode 0600, durably.
func writeNew(path, text string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.WriteString(f, text); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

// fromFile reads the identity in a file. If a rekey was interrupted there are two, and
// what is sealed tells which of them counts; the other is removed only once this one
// has opened everything. Error: [fs.ErrNotExist].
func fromFile(opts Options) (*Vault, error) {
	v, err := vaultAt(opts.File, opts.Sealed)
	file := opts.File + nextSuffix
	if _, statErr := os.Lstat(file); errors.Is(statErr, fs.ErrNotExist) {
		return v, err
	} else if statErr != nil {
		return nil, fmt.Errorf("read the vault's identity: %w", statErr)
	}
	if err == nil { // killed before everything was encrypted anew
		if err := errors.Join(os.Remove(file), syncDir(filepath.Dir(file))); err != nil {
			return nil, fmt.Errorf("remove what an interrupted rekey left: %w", err)
		}
		return v, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrIdentity) {
		return nil, err
	}
	if v, nextErr := vaultAt(file, opts.Sealed); nextErr == nil { // killed after it
		v.path = opts.File
		return v, promote(file, opts.File)
	}
	return nil, err
}

// vaultAt reads an identity, which must open everything.
func vaultAt(path string, sealed []Sealed) (*Vault, error) {
	identity, err := read(path, true)
	if err != nil {
		return nil, err
	}
	v := &Vault{identity: identity, path: path}
	return v, v.opens(sealed)
}
