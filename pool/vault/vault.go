// Package vault encrypts secrets at rest; nothing else in sluice decrypts one.
package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// Vault encrypts for one age identity. It may be used concurrently.
type Vault struct {
	identity *age.X25519Identity
	path     string
	given    bool // by systemd, and not sluice's to change
}

// Path is the file that the identity was read from.
func (v *Vault) Path() string { return v.path }

// Given says whether the identity is one that systemd handed over.
func (v *Vault) Given() bool { return v.given }

// opens says whether everything that is sealed is sealed for this identity.
func (v *Vault) opens(sealed []Sealed) error {
	for _, s := range sealed {
		plain, err := v.Decrypt(s.Data)
		if err != nil {
			return fmt.Errorf("credential %s: %w", s.Name, err)
		}
		plain.Zero()
	}
	return nil
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
	// One buffer, which has room to spare: growing ones would leave pieces behind that
	// nobody overwrites.
	plain := make([]byte, len(data))
	n := 0
	for err == nil && n < len(plain) {
		var got int
		got, err = r.Read(plain[n:])
		n += got
	}
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		clear(plain)
		return Secret{}, fmt.Errorf("decrypt: the sealed secret is not whole: %v", err)
	}
	return NewSecret(plain[:n]), nil
}
