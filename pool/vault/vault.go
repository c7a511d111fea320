// Package vault encrypts secrets at rest; nothing else in sluice decrypts one.
package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// ErrIdentity means that a secret was not encrypted for this vault's identity.
var ErrIdentity = errors.New("the vault's identity does not open this secret")

// Vault encrypts for one age identity. It may be used concurrently.
type Vault struct {
	identity *age.X25519Identity
	path     string
}

// Open reads the identity in the file at path, or makes it, mode 0600, if there is no such file.
func Open(path string) (*Vault, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the vault's identity: %w", err)
	}
	identity, err := age.ParseX25519Identity(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("%s is not an age identity: restore it from a backup; without it the stored secrets cannot be read", path)
	}
	return &Vault{identity: identity, path: path}, nil
}

func create(path string) (_ *Vault, err error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make the vault's identity: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".identity-") // 0600
	if err != nil {
		return nil, fmt.Errorf("make the vault's identity: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make the vault's identity: %w", err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err := io.WriteString(f, identity.String()+"\n"); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	// Link, unlike rename, never replaces an identity that appeared meanwhile.
	if err := os.Link(f.Name(), path); err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	// A power cut must not take the name of the file and leave what was encrypted for it.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return &Vault{identity: identity, path: path}, f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Encrypt returns the secret as an age file.
func (v *Vault) Encrypt(s Secret) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, v.identity.Recipient())
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	if _, err := w.Write(s.Bytes()); err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return out.Bytes(), nil
}

// Decrypt opens what Encrypt returned. Error: [ErrIdentity].
func (v *Vault) Decrypt(data []byte) (Secret, error) {
	r, err := age.Decrypt(bytes.NewReader(data), v.identity)
	if err != nil {
		var none *age.NoIdentityMatchError
		if errors.As(err, &none) {
			return Secret{}, fmt.Errorf("%s: %w: it belongs to another state directory or was replaced; restore the old one", v.path, ErrIdentity)
		}
		return Secret{}, fmt.Errorf("decrypt: %w", err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return Secret{}, fmt.Errorf("decrypt: %w", err)
	}
	return NewSecret(plain), nil
}
