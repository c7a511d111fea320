package sniff

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// wire is a connection that keeps what is written and answers with the given bytes, then the end.
type wire struct {
	in  []byte
	out []byte
}

func (w *wire) Read(b []byte) (int, error) {
	if len(w.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b, w.in)
	w.in = w.in[n:]
	return n, nil
}
func (w *wire) Write(b []byte) (int, error)      { w.out = append(w.out, b...); return len(b), nil }
func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// goHello is what crypto/tls sends first.
func goHello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	w := &wire{}
	if err := tls.Client(w, c).HandshakeContext(context.Background()); err == nil {
		t.Fatal("a handshake without a server succeeded")
	}
	if len(w.out) == 0 {
		t.Fatal("crypto/tls sent nothing")
	}
	return w.out
}

// goReads is what crypto/tls as a server understands of a beginning; ok is false if it refuses it.
func goReads(b []byte) (name string, alpn []string, ok bool) {
	seen := errors.New("seen")
	c := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, alpn, ok = h.ServerName, h.SupportedProtos, true
		return nil, seen
	}}
	_ = tls.Server(&wire{in: b}, c).HandshakeContext(context.Background())
	return name, alpn, ok
}

// vec is a field with its length, of size bytes, before it.
func vec(size int, parts ...string) string {
	body := strings.Join(parts, "")
	length := make([]byte, size)
	for i, n := size-1, len(body); i >= 0; i, n = i-1, n>>8 {
		length[i] = byte(n)
	}
	return string(length) + body
}

func extension(kind int, parts ...string) string {
	return string([]byte{byte(kind >> 8), byte(kind)}) + vec(2, parts...)
}

func sni(name string) string { return extension(0, vec(2, "\x00"+vec(2, name))) }

func alpn(names ...string) string {
	var list string
	for _, n := range names {
		list += vec(1, n)
	}
	return extension(16, vec(2, list))
}

// message is a ClientHello as a handshake message with these extensions.
func message(extensions ...string) string {
	return "\x01" + vec(3, "\x03\x03", strings.Repeat("r", 32), vec(1, strings.Repeat("s", 32)),
		vec(2, "\x13\x01\x13\x02"), vec(1, "\x00"), vec(2, extensions...))
}

// records cuts a handshake message into records of at most size bytes.
func records(message string, size int) []byte {
	var out string
	for len(message) > 0 {
		n := min(size, len(message))
		out += "\x16\x03\x01" + vec(2, message[:n])
		message = message[n:]
	}
	return []byte(out)
}

func hello(extensions ...string) []byte { return records(message(extensions...), 1<<14) }
