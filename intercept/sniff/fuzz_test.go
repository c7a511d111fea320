package sniff

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func beginnings(f *testing.F) [][]byte {
	whole := goHello(f, &tls.Config{ServerName: "api.example", NextProtos: []string{"h2", "http/1.1"}})
	return [][]byte{
		whole, whole[:len(whole)/2], hello(sni("a"), alpn("h2")), records(message(sni("a")), 7), hello(sni("a"), sni("b")),
		hello(extension(0xfe0d, "x"), sni("a")), []byte(preface), []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
		[]byte("GET http://b/ HTTP/1.1\nHost: a\n\n"), []byte("SSH-2.0-x\r\n"),
		append([]byte(warning), whole...), ofVersion(whole, 2, 0), ofVersion(records(message(sni("a")), 7), 9, 9),
	}
}

// FuzzParse holds that an answer does not change with the bytes that follow.
func FuzzParse(f *testing.F) {
	for _, seed := range beginnings(f) {
		f.Add(seed, uint(len(seed)/2))
		f.Add(seed, uint(len(seed)-1))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint) {
		h, err := Parse(b)
		if err != nil && !same(h, Hello{}) {
			t.Fatalf("both %+v and %v", h, err)
		}
		cut %= uint(len(b) + 1)
		part, partErr := Parse(b[:cut])
		if !errors.Is(partErr, ErrIncomplete) && (!same(part, h) || !errors.Is(err, partErr)) {
			t.Fatalf("%d bytes: %+v, %v; all %d: %+v, %v", cut, part, partErr, len(b), h, err)
		}
	})
}

// FuzzParseAsGo holds that what this package and crypto/tls both understand they
// read alike: else a client could show one name to sluice and another to the server.
func FuzzParseAsGo(f *testing.F) {
	for _, seed := range beginnings(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		name, protocols, ok := goReads(b)
		if (len(b) == 0 || b[0] != recordHandshake) && err == nil && h.Kind == KindTLS {
			t.Fatal("not TLS")
		}
		if ok && err == nil && (h.Kind != KindTLS || h.ServerName != name || !slices.Equal(h.ALPN, protocols)) {
			t.Fatalf("got %+v; crypto/tls reads %q and %q", h, name, protocols)
		}
		if ok && errors.Is(err, ErrIncomplete) {
			t.Fatal("incomplete, and crypto/tls reads it")
		}
	})
}

// FuzzHTTPAsGo holds that a head which this package and net/http both understand names the
// same host to both: plain HTTP for a bound host is refused by that name.
func FuzzHTTPAsGo(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://b:80/x HTTP/1.1\nHost: a\n\n", "CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\nhOsT:\ta \r\nX: y\r\n\r\n", "GET //b/ HTTP/1.1\r\nHost: a\r\n\r\n", "POST http://u:p@b/?x HTTP/1.1\r\nHost: a\r\n\r\nHost: c",
		"GET http:/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nX: y\r\n Host: b\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		r, bad := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil || bad != nil || h.Kind != KindHTTP {
			return
		}
		host, _, err := CanonicalHost(r.Host)
		if err != nil {
			return // it can name no binding
		}
		if got, _, err := CanonicalHost(h.Host); err != nil || got != host {
			t.Fatalf("%q, %v, and net/http says %q", h.Host, err, r.Host)
		}
	})
}

// FuzzCanonicalHost holds that a canonical host is one: in itself, and as a name that could be looked up.
func FuzzCanonicalHost(f *testing.F) {
	for _, seed := range []string{
		"api.example", "API.Example.:443", "Bücher.example", "xn--bcher-kva.example", "192.0.2.1.", "[::1]:80", "::1", "",
		"api\u3002example", "a..b", "a:b:c", "ａ.example", "1.2.3.4", "xn--a", "a\u200db.example", "ß.example",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := CanonicalHost(s)
		if err != nil {
			if host != "" || port != 0 || !errors.Is(err, ErrAddress) && !errors.Is(err, ErrNotHost) {
				t.Fatalf("got %q, %d, %v", host, port, err)
			}
			return
		}
		if again, p, err := CanonicalHost(host); again != host || p != 0 || err != nil {
			t.Fatalf("%q is canonical, and then %q, %d, %v", host, again, p, err)
		}
		if len(host) == 0 || len(host) > 253 || strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
			t.Fatalf("%q is no host", host)
		}
		for label := range strings.SplitSeq(host, ".") {
			if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
				t.Fatalf("%q has a label %q", host, label)
			}
		}
		if _, err := netip.ParseAddr(host); err == nil {
			t.Fatalf("%q is an address", host)
		}
	})
}
