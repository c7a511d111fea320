package exchange

import (
	"bufio"
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/echo"
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

// FuzzForwarded holds what goes upstream against net/http's reading of it, whatever the
// client sent: one message for the connection's host, framed as it was, with the lease's
// credential and no other one.
func FuzzForwarded(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "POST https://API.example.com:443?key=a&b HTTP/1.1\r\nHost: api.example.com.\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"POST /x?k%65y=1&key HTTP/1.1\r\nhost:api.example.com\r\nTransfer-Encoding: chunked\r\nAuthorization: mine\r\nX_Api_Key: mine\r\nTE: trailers\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: api.example.com\r\nConnection: close, authorization, host, content-length, x\r\nX: y\r\nUpgrade: h2c, websocket\r\n\r\n",
		"GET //b/ HTTP/1.1\r\nHost: api.example.com:\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: api.example.com\r\nAccept-Encoding: dcb" + strings.Repeat(",br", 200) + "\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	lease := pool.Lease{
		Strip: []string{"authorization", "x-api-key"}, StripQuery: []string{"key"}, Echo: echo.New([]echo.Secret{{Value: []byte(echoedKey), Placeholder: []byte(echoStub)}}),
		Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer " + echoedKey)}, {Name: "chatgpt-account-id", Value: []byte("theirs")}},
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		n, err := headEnd(in, 0)
		if err != nil || n == 0 {
			return
		}
		var h head
		if h.parseRequest(in[:n], 50) != nil {
			return
		}
		if denied, err := checkTarget(&h, testHost, 443); denied != nil || err != nil {
			return
		}
		out := appendRequest(nil, &h, &lease)
		if len(out) > requestSize(&h, &lease) {
			t.Fatalf("%d bytes, and room for %d", len(out), requestSize(&h, &lease))
		}
		var sent head
		if end, err := headEnd(out, 0); err != nil || end != len(out) || sent.parseRequest(out, 60) != nil {
			t.Fatalf("%q became %q, which is no head", in[:n], out)
		}
		if denied, err := checkTarget(&sent, testHost, 443); denied != nil || err != nil || sent.length != h.length || sent.chunked != h.chunked {
			t.Fatalf("%q became %q", in[:n], out)
		}
		input := bytes.NewReader(out)
		buffered := bufio.NewReader(input)
		r, err := http.ReadRequest(buffered)
		if err != nil {
			return // it is stricter about targets
		}
		if input.Len()+buffered.Buffered() != 0 {
			t.Fatalf("%q: more than one message", out)
		}
		host, _, _ := strings.Cut(r.Host, ":")
		if canonical(host) != testHost || r.URL.Host != "" || r.Method != string(h.methodBytes()) {
			t.Fatalf("%q goes to %q, %q", out, r.Host, r.URL)
		}
		if chunked := len(r.TransferEncoding) > 0; chunked != h.chunked || !chunked && r.ContentLength != max(h.length, 0) {
			t.Fatalf("%q: length %d, %v", out, r.ContentLength, r.TransferEncoding)
		}
		for name, want := range map[string]string{"Authorization": "Bearer " + echoedKey, "Chatgpt-Account-Id": "theirs"} {
			if !slices.Equal(r.Header[name], []string{want}) {
				t.Fatalf("%q: %s is %q", out, name, r.Header[name])
			}
		}
		for name := range r.Header {
			if slices.Contains([]string{"X-Api-Key", "Sec-Websocket-Extensions", "Keep-Alive", "Proxy-Authorization", "Http2-Settings"}, strings.ReplaceAll(name, "_", "-")) && (name != "Sec-Websocket-Extensions" || h.upgrade) {
				t.Fatalf("%q: %s goes along", out, name)
			}
		}
		if values, err := url.ParseQuery(r.URL.RawQuery); err == nil && values.Has("key") {
			t.Fatalf("%q: a key goes along", out)
		}
	})
}

// FuzzUnpacked holds that a secret in a compressed body is seen in whatever pieces it
// comes, exactly if it is in there, and before its bytes are passed on from which a decoder
// can tell it.
func FuzzUnpacked(f *testing.F) {
	f.Add([]byte("data: "), []byte(" end"), uint8(0), uint8(1), true)
	f.Add(bytes.Repeat([]byte("x"), 20000), []byte(echoedKey[:20]), uint8(3), uint8(100), false)
	f.Add(noise(40000), noise(400), uint8(0), uint8(200), true)
	f.Add(noise(140000), []byte("."), uint8(2), uint8(255), true)
	f.Add([]byte("data: "), []byte("\n\n"), uint8(6), uint8(0), true)
	m := echo.New([]echo.Secret{{Value: []byte(echoedKey), Placeholder: []byte(echoStub)}})
	f.Fuzz(func(t *testing.T, before, behind []byte, coding, step uint8, with bool) {
		text := string(before) + echoedKey[:len(echoedKey)-1] + string(behind)
		if with {
			text = string(before) + echoedKey + string(behind)
		}
		name := []string{"gzip", "br", "zstd", "deflate"}[coding%4]
		packed := []byte(compressed(name, text))
		if coding&4 != 0 { // a second member or frame
			packed = append(packed, compressed(name, text)...)
		}
		u := newUnpacker(m, name, nil)
		passed, held := 0, 0
		for rest := packed; len(rest) > 0; {
			n := min(len(rest), 1+int(step)+len(packed)/500)
			u.see(rest[:n])
			rest = rest[n:]
			if u.echoes(len(rest) == 0) {
				break
			}
			held += n
			out := u.passable(held, held-n)
			passed, held = passed+out, held-out
			if with && len(packed) < 4096 && strings.Contains(string(decode(packed[:passed], name, 64<<20)), echoedKey) {
				t.Fatalf("%s in pieces of %d: passed on before it was seen: %q", name, n, text)
			}
		}
		if got := u.echoes(true); got != m.Contains([]byte(text)) {
			t.Fatalf("%s in pieces of %d: %v: %q", name, step, got, text)
		} else if !got && (held > 0 || passed != len(packed)) {
			t.Fatalf("%s in pieces of %d: %d of %d bytes are passed on, %d held", name, step, passed, len(packed), held)
		}
		if got := decode(packed, name, 64<<20); !strings.HasPrefix(string(got), text) {
			t.Fatalf("%s: %q, want %q", name, got, text)
		}
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

// FuzzValueEnd: eight bytes at a time say the same as one at a time.
func FuzzValueEnd(f *testing.F) {
	f.Add([]byte("application/json\r\n"), 0)
	f.Add([]byte("a\tb\x80\xff\x1f ~\x7f.........."), 3)
	f.Fuzz(func(t *testing.T, b []byte, from int) {
		from = min(max(from, 0), len(b))
		want := from
		for want < len(b) && classes[b[want]]&charValue != 0 {
			want++
		}
		if got := valueEnd(b, from); got != want {
			t.Fatalf("%q from %d: %d, want %d", b, from, got, want)
		}
	})
}
