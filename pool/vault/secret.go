package vault

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
	"runtime"
	"unsafe"
)

const redacted = "REDACTED"

// Secret is bytes that must not be seen: however it is printed, formatted or
// encoded, it says REDACTED. The zero value is an empty secret. Secrets cannot be
// compared with ==, which takes the longer the more they have in common.
type Secret struct {
	// What is in an unexported field, fmt does not ask how to print itself, and a pointer
	// it follows for some verbs. Into a function nothing looks.
	bytes func() []byte
}

// NewSecret takes over b: the caller must not use it any more.
func NewSecret(b []byte) Secret { return Secret{bytes: func() []byte { return b }} }

// Bytes returns the secret itself, shared: it must not be changed or kept.
func (s Secret) Bytes() []byte {
	if s.bytes == nil {
		return nil
	}
	return s.bytes()
}

// Empty says whether there is no secret.
func (s Secret) Empty() bool { return len(s.Bytes()) == 0 }

// Equal compares in constant time.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare(s.Bytes(), other.Bytes()) == 1
}

// Zero overwrites the secret for every holder of it.
func (s Secret) Zero() { clear(s.Bytes()) }

// leastKept is above what the runtime packs several values of into one block, in bytes.
const leastKept = 32

// Keep moves b to memory that is overwritten once nobody can reach it: requests that
// are under way with a secret that was replaced are not disturbed. b is overwritten at
// once. What is returned must not be appended to.
func Keep(b []byte) []byte {
	kept := make([]byte, max(len(b), leastKept))
	n := copy(kept, b)
	clear(b)
	runtime.SetFinalizer(&kept[0], func(first *byte) { clear(unsafe.Slice(first, n)) })
	return kept[:n:n]
}

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
