package sniff

import (
	"crypto/tls"
	"testing"
)

// TestParseAllocates holds the cost that each intercepted connection pays.
func TestParseAllocates(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		most float64
	}{
		"name alone":         {goHello(t, &tls.Config{ServerName: "api.example"}), 1},                                         // the name
		"name and protocols": {goHello(t, &tls.Config{ServerName: "api.example", NextProtos: []string{"h2", "http/1.1"}}), 5}, // and the list, grown twice
		"http":               {[]byte("GET / HTTP/1.1\r\nHost: api.example\r\nAccept: */*\r\n\r\n"), 2},
		"incomplete":         {hello(sni("api.example"))[:40], 0},
		"unknown":            {[]byte("SSH-2.0-OpenSSH_9.2\r\n"), 0},
	} {
		if got := testing.AllocsPerRun(100, func() { _, _ = Parse(c.b) }); got > c.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, c.most)
		}
	}
	if got := testing.AllocsPerRun(100, func() { _, _, _ = CanonicalHost("api.example:443") }); got > 0 {
		t.Errorf("a canonical host: %v allocations, want none", got)
	}
}

func BenchmarkParseTLS(b *testing.B) {
	whole := goHello(b, &tls.Config{ServerName: "api.example", NextProtos: []string{"h2", "http/1.1"}})
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(whole); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseHTTP(b *testing.B) {
	head := []byte("POST /v1/messages HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n")
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(head); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCanonicalHost(b *testing.B) {
	for _, host := range []string{"api.example:443", "API.Example.", "bücher.example"} {
		b.Run(host, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := CanonicalHost(host); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
