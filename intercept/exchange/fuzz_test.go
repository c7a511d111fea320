package exchange

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"testing"
)

// FuzzResponseHead: what the parser takes, net/http reads the same way.
func FuzzResponseHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nA: b\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.0 429 \r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 204\r\nConnection: keep-alive, x\r\nX: \t y \r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		n, err := headEnd(in, 0)
		if err != nil || n == 0 {
			return
		}
		var h head
		if h.parseResponse(in[:n], 50) != nil {
			return
		}
		req, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), req)
		if err != nil {
			t.Fatalf("%q is accepted, net/http says %v", in[:n], err)
		}
		defer r.Body.Close()
		var get head
		if err := get.parseRequest([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 50); err != nil {
			t.Fatal(err)
		}
		if r.StatusCode != h.status || r.ProtoMinor != int(h.minor) {
			t.Fatalf("%q: %d 1.%d, net/http %d 1.%d", in[:n], h.status, h.minor, r.StatusCode, r.ProtoMinor)
		}
		switch body := responseFraming(&h, &get); body.kind {
		case bodyNone:
			if r.StatusCode >= 200 && r.StatusCode != 204 && r.StatusCode != 304 {
				t.Fatalf("%q: no body", in[:n])
			}
		case bodyLength:
			if r.ContentLength != body.left {
				t.Fatalf("%q: %d bytes, net/http %d", in[:n], body.left, r.ContentLength)
			}
		case bodyChunked:
			if !slices.Equal(r.TransferEncoding, []string{"chunked"}) {
				t.Fatalf("%q: chunked, net/http %v %d", in[:n], r.TransferEncoding, r.ContentLength)
			}
		case bodyUntilClose:
			if r.ContentLength != -1 || len(r.TransferEncoding) > 0 {
				t.Fatalf("%q: until the end, net/http %v %d", in[:n], r.TransferEncoding, r.ContentLength)
			}
		}
		sameFields(t, &h, r.Header)
	})
}

// sameFields compares values in their order, but of the fields that net/http
// takes out of the header.
func sameFields(t *testing.T, h *head, theirs http.Header) {
	for name, values := range h.header() {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Connection", "Pragma", "Cache-Control":
			continue
		}
		if !slices.Equal(values, theirs[name]) {
			t.Fatalf("%s is %q, net/http says %q", name, values, theirs[name])
		}
	}
}
