package sniff

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// checkCuts cuts the beginning at every byte: it is incomplete up to some byte and
// says the same from there on, whatever follows.
func checkCuts(t *testing.T, b []byte) {
	t.Helper()
	want, wantErr := Parse(b)
	if errors.Is(wantErr, ErrIncomplete) {
		t.Fatal("incomplete as a whole")
	}
	answered := false
	for n := range len(b) + 1 {
		h, err := Parse(b[:n])
		if errors.Is(err, ErrIncomplete) && !answered {
			continue
		}
		answered = true
		if !same(h, want) || !errors.Is(err, wantErr) {
			t.Fatalf("cut at %d of %d: %+v, %v; whole: %+v, %v", n, len(b), h, err, want, wantErr)
		}
	}
	h, err := Parse(append(slices.Clone(b), "what follows"...))
	if !same(h, want) || !errors.Is(err, wantErr) {
		t.Fatalf("with more behind it: %+v, %v; want %+v, %v", h, err, want, wantErr)
	}
}

func same(a, b Hello) bool {
	return a.Kind == b.Kind && a.ServerName == b.ServerName && a.Host == b.Host && a.ECH == b.ECH && slices.Equal(a.ALPN, b.ALPN)
}

func TestParseTLS(t *testing.T) {
	t.Parallel()
	grease := extension(0x0a0a) + extension(0xfafa, "\x00")
	padding := extension(21, strings.Repeat("\x00", 30000))
	for name, c := range map[string]struct {
		b    []byte
		want Hello
		err  error
	}{
		"name":                {b: hello(sni("a.example")), want: Hello{ServerName: "a.example"}},
		"name and protocols":  {b: hello(alpn("h2", "http/1.1"), sni("a.example")), want: Hello{ServerName: "a.example", ALPN: []string{"h2", "http/1.1"}}},
		"grease":              {b: hello(grease, sni("a.example"), alpn("\x0a\x0a", "h2")), want: Hello{ServerName: "a.example", ALPN: []string{"\x0a\x0a", "h2"}}},
		"encrypted hello":     {b: hello(sni("outer.example"), extension(0xfe0d, "\x00sealed")), want: Hello{ServerName: "outer.example", ECH: true}},
		"no name":             {b: hello(alpn("h2")), want: Hello{ALPN: []string{"h2"}}},
		"no extensions":       {b: hello()},
		"an address for name": {b: hello(sni("192.0.2.1")), want: Hello{ServerName: "192.0.2.1"}},
		"name as it was sent": {b: hello(sni("A.Example.")), want: Hello{ServerName: "A.Example."}},
		"one byte a record":   {b: records(message(sni("a.example")), 1), want: Hello{ServerName: "a.example"}},
		"split in the header": {b: records(message(sni("a.example")), 3), want: Hello{ServerName: "a.example"}},
		"split in the name":   {b: records(message(sni("a.example")), 100), want: Hello{ServerName: "a.example"}},
		"large, in records":   {b: records(message(padding, sni("a.example")), 1<<14), want: Hello{ServerName: "a.example"}},
		"other name types":    {b: hello(extension(0, vec(2, "\x07"+vec(2, "x"), "\x00"+vec(2, "a.example")))), want: Hello{ServerName: "a.example"}},
		"no extension block":  {b: records("\x01"+vec(3, "\x03\x03", strings.Repeat("r", 32), vec(1), vec(2, "\x00\x2f"), vec(1, "\x00")), 99)},

		"two names":               {b: hello(extension(0, vec(2, "\x00"+vec(2, "a"), "\x00"+vec(2, "b")))), err: ErrMalformed},
		"two name extensions":     {b: hello(sni("a"), sni("a")), err: ErrMalformed},
		"two protocol extensions": {b: hello(alpn("h2"), alpn("h2")), err: ErrMalformed},
		"an empty name":           {b: hello(sni("")), err: ErrMalformed},
		"an empty list of names":  {b: hello(extension(0, vec(2))), err: ErrMalformed},
		"an empty protocol":       {b: hello(alpn("")), err: ErrMalformed},
		"a name cut off":          {b: hello(extension(0, "\x00\xff\x00")), err: ErrMalformed},
		"bytes behind the list":   {b: hello(extension(0, vec(2, "\x00"+vec(2, "a")), "x")), err: ErrMalformed},
		"bytes behind the block":  {b: records("\x01"+vec(3, message(sni("a"))[4:], "x"), 1<<14), err: ErrMalformed},
		"a server's message":      {b: records("\x02"+vec(3, "x"), 99), err: ErrMalformed},
		"an empty record":         {b: []byte("\x16\x03\x01\x00\x00"), err: ErrMalformed},
		"a record over-long":      {b: []byte("\x16\x03\x01\x41\x01"), err: ErrMalformed},
		"another kind in between": {b: append(records("\x01\x00\x00", 99), "\x17\x03\x03\x00\x01x"...), err: ErrMalformed},
		"no body":                 {b: records("\x01"+vec(3), 99), err: ErrMalformed},
		"over-long":               {b: records("\x01\x01\x00\x00", 99), err: ErrTooLong},
		"over-long by headers":    {b: records(message(extension(21, strings.Repeat("x", 50000)), sni("a")), 10), err: ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.err == nil {
				c.want.Kind = KindTLS
			}
			got, err := Parse(c.b)
			if !same(got, c.want) || !errors.Is(err, c.err) {
				t.Fatalf("got %+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
			if len(c.b) < 1<<16 {
				checkCuts(t, c.b)
			}
		})
	}
}

// warning is an alert that servers pass over, crypto/tls and BoringSSL for two, before a ClientHello too.
const warning = "\x15\x03\x01\x00\x02\x01\x5a"

// ofVersion is a beginning whose records say another version. RFC 8446 section 5.1 has servers ignore it; crypto/tls does up to 15.
func ofVersion(b []byte, major, minor byte) []byte {
	b = slices.Clone(b)
	for at := 0; at < len(b); at += recordHeader + int(b[at+3])<<8 + int(b[at+4]) {
		b[at+1], b[at+2] = major, minor
	}
	return b
}

// TestHellosThatServersPutUpWith name a host to the server, and so must here, or be refused: what is unknown is passed on.
func TestHellosThatServersPutUpWith(t *testing.T) {
	t.Parallel()
	whole := goHello(t, &tls.Config{ServerName: "api.example", NextProtos: []string{"h2"}})
	want := Hello{Kind: KindTLS, ServerName: "api.example", ALPN: []string{"h2"}}
	pieces := records(string(whole[recordHeader:]), 50)
	for name, c := range map[string]struct {
		b    []byte
		err  error
		read bool // by crypto/tls
	}{
		"a version before SSL 3":        {b: ofVersion(whole, 2, 0), read: true},
		"version 0":                     {b: ofVersion(whole, 0, 0), read: true},
		"version 15, in pieces":         {b: ofVersion(pieces, 15, 255), read: true},
		"a version of the far future":   {b: ofVersion(whole, 200, 0)},
		"an alert before it":            {b: append([]byte(warning), whole...), err: ErrMalformed, read: true},
		"alerts of versions before it":  {b: slices.Concat(ofVersion([]byte(warning), 0, 7), ofVersion([]byte(warning), 9, 0), whole), err: ErrMalformed, read: true},
		"an alert in between":           {b: slices.Concat(pieces[:recordHeader+50], []byte(warning), pieces[recordHeader+50:]), err: ErrMalformed, read: true},
		"a change of ciphers before it": {b: append([]byte("\x14\x03\x03\x00\x01\x01"), whole...), err: ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := Parse(c.b)
			if !errors.Is(err, c.err) || err == nil && !same(h, want) {
				t.Errorf("got %+v, %v; want %v", h, err, c.err)
			}
			checkCuts(t, c.b)
			if server, _, read := goReads(c.b); read != c.read || read && server != "api.example" {
				t.Errorf("crypto/tls reads %q, %v", server, read)
			}
		})
	}
	for _, other := range []string{"\x16\x00\x00\x00\x05hello", "\x15\x03\x01\x00\x03abc", "\x15no alert", "\x14\x00\x00\x00", "\x16\x04\x00\x00\x00 nor this"} {
		if h, err := Parse([]byte(other)); err != nil || h.Kind != KindUnknown {
			t.Errorf("%q: %+v, %v", other, h, err)
		}
	}
}

func TestParseTLSOfGo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]*tls.Config{
		"1.3":     {ServerName: "api.example", NextProtos: []string{"h2", "http/1.1"}},
		"1.2":     {ServerName: "api.example", MaxVersion: tls.VersionTLS12},
		"address": {ServerName: "192.0.2.1"}, // sends no name (RFC 6066 section 3)
		"no name": {InsecureSkipVerify: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := goHello(t, c)
			h, err := Parse(b)
			want := c.ServerName
			if net.ParseIP(want) != nil {
				want = ""
			}
			if err != nil || h.Kind != KindTLS || h.ServerName != want || !slices.Equal(h.ALPN, c.NextProtos) {
				t.Fatalf("got %+v, %v", h, err)
			}
			checkCuts(t, b)
		})
	}
}

// TestParseTLSOfOpenSSL reads what the openssl command sends to a listener here.
func TestParseTLSOfOpenSSL(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.CommandContext(t.Context(), path, "s_client", "-connect", l.Addr().String(), "-servername", "api.example", "-alpn", "h2,http/1.1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	var b bytes.Buffer
	for buf := make([]byte, 100); ; {
		n, err := c.Read(buf)
		b.Write(buf[:n])
		if _, bad := Parse(b.Bytes()); !errors.Is(bad, ErrIncomplete) {
			break
		}
		if err != nil {
			t.Fatalf("openssl stopped after %d bytes: %v", b.Len(), err)
		}
	}
	_ = c.Close()
	_ = cmd.Wait() // it fails: nobody answered it
	h, err := Parse(b.Bytes())
	if err != nil || h.Kind != KindTLS || h.ServerName != "api.example" || !slices.Equal(h.ALPN, []string{"h2", "http/1.1"}) || h.ECH {
		t.Fatalf("got %+v, %v", h, err)
	}
	checkCuts(t, b.Bytes())
}
