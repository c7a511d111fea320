package vault

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

const redacted = "REDACTED"

// Secret is bytes that must not be seen: however it is printed, formatted or
// encoded, it says REDACTED. The zero value is an empty secret.
type Secret struct{ bytes []byte }

// NewSecret takes over b: the caller must not use it any more.
func NewSecret(b []byte) Secret { return Secret{bytes: b} }

// Bytes returns the secret itself, shared: it must not be changed or kept.
func (s Secret) Bytes() []byte { return s.bytes }

// Empty says whether there is no secret.
func (s Secret) Empty() bool { return len(s.bytes) == 0 }

// Equal compares in constant time.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare(s.bytes, other.bytes) == 1
}

// Zero overwrites the secret for every holder of it.
func (s Secret) Zero() { clear(s.bytes) }

func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, for the verbs that would look inside.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON implements json.Marshaler.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
