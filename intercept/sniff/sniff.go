// Package sniff tells from a connection's first bytes what it speaks and to whom;
// it is pure and consumes nothing.
package sniff

import "errors"

// Kind is what a connection's first bytes look like.
type Kind uint8

const (
	// KindUnknown is neither of the others.
	KindUnknown Kind = iota
	// KindTLS begins with a ClientHello.
	KindTLS
	// KindHTTP begins with an HTTP/1.x request.
	KindHTTP
	// KindH2C is HTTP/2 with prior knowledge, without TLS (RFC 9113 section 3.3).
	KindH2C
)

func (k Kind) String() string { return [...]string{"unknown", "tls", "http", "h2c"}[k] }

// MaxHello is how many bytes of a beginning are looked at. A ClientHello with
// post-quantum key shares has about 2 KiB; the format's own limit is far above.
const MaxHello = 64 << 10

var (
	// ErrIncomplete means that more bytes are needed.
	ErrIncomplete = errors.New("more bytes are needed")
	// ErrTooLong means that the beginning has more than [MaxHello] bytes.
	ErrTooLong = errors.New("the beginning is too long")
	// ErrMalformed means that it begins like TLS or HTTP and then breaks its rules.
	ErrMalformed = errors.New("malformed")
)

// Hello is what a connection's beginning says.
type Hello struct {
	Kind       Kind
	ServerName string   // of TLS, as it was sent (RFC 6066 section 3); "" if there is none
	ALPN       []string // of TLS (RFC 7301)
	Host       string   // of HTTP: the authority of an absolute-form target, else the Host field
	ECH        bool     // the real name may be encrypted: ServerName is the outer one
}

// Parse reads the first bytes of a connection.
//
// Errors: [ErrIncomplete], [ErrTooLong], [ErrMalformed]. Bytes that are neither TLS
// nor HTTP are no error but [KindUnknown], as soon as that is certain.
func Parse(b []byte) (Hello, error) {
	// Only these bytes count, so that what follows them never changes an answer.
	h, err := parse(b[:min(len(b), MaxHello)])
	if len(b) > MaxHello && errors.Is(err, ErrIncomplete) {
		return Hello{}, ErrTooLong
	}
	return h, err
}

func parse(b []byte) (Hello, error) {
	if len(b) == 0 {
		return Hello{}, ErrIncomplete
	}
	switch b[0] {
	case recordHandshake:
		// Servers ignore what version the first record says (RFC 8446 section 5.1): so that does not tell TLS from other protocols.
		if len(b) < 2 || b[1] == 3 || mayBeHello(b) {
			return parseTLS(b)
		}
	case recordAlert, recordChangeCipherSpec:
		return parseOther(b)
	}
	return parseHTTP(b)
}
