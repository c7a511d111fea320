package pool

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// material is what a credential's sealed bytes hold.
type material struct {
	Secret  []byte            `json:"secret,omitempty"`
	Access  []byte            `json:"access,omitempty"`
	Refresh []byte            `json:"refresh,omitempty"`
	Extra   map[string][]byte `json:"extra,omitempty"`  // by field name
	Former  [][]byte          `json:"former,omitempty"` // digests of spent refresh tokens, oldest first
	// Fetched is the digest of what the source held when it was read last.
	Fetched []byte `json:"fetched,omitempty"`
}

// Format implements [fmt.Formatter]: whatever the verb, nothing is shown.
func (material) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "REDACTED") }

// LogValue implements [slog.LogValuer]. JSON is what it is sealed as.
func (material) LogValue() slog.Value { return slog.StringValue("REDACTED") }

// keep has what a keeper holds overwritten once no view and no lease has it any more.
func (m *material) keep() {
	for _, secret := range []*[]byte{&m.Secret, &m.Access, &m.Refresh} {
		if *secret != nil {
			*secret = vault.Keep(*secret)
		}
	}
	for name, value := range m.Extra {
		m.Extra[name] = vault.Keep(value)
	}
}

func (m *material) token() []byte {
	if m.Access != nil {
		return m.Access
	}
	return m.Secret
}

// opened is what was sealed and what was found in it. It is kept, for to open all of a pool's at every change of it would take
// its time.
type opened struct {
	sealed   []byte
	material *material
}

func (k *Keeper) seal(m *material) ([]byte, error) {
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a secret: %w", err)
	}
	s := vault.NewSecret(plain)
	defer s.Zero()
	return k.opts.Vault.Encrypt(s)
}

func (k *Keeper) open(r *CredentialRecord) (*material, error) {
	plain, err := k.opts.Vault.Decrypt(r.Sealed)
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", r.Credential.Name, err)
	}
	defer plain.Zero()
	var m material
	if err := json.Unmarshal(plain.Bytes(), &m); err != nil {
		return nil, fmt.Errorf("credential %s: decode: %w", r.Credential.Name, err)
	}
	m.keep()
	return &m, nil
}
