package exchange

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/echo"
)

const (
	echoedKey = "sk-proj-A+b/c=31415926535897932384626433832795"
	echoStub  = "sk-sluice-0123456789abcdef"
	// As JSON and a URL may have it.
	escapedKey = `\u0073k-pro\u006A\u002dA\u002Bb\/c=3141592653589793238462643383279\u0035`
	percentKey = "sk%2dproj%2DA%2bb%2Fc%3D3141592653589793238462643383279%35"
)

// parrot is a pool whose only member's key upstreams repeat. seen are what was told.
func parrot(seen *[]Echoed, mu *sync.Mutex) func(o *Options) {
	return func(o *Options) {
		o.AnswerTimeout = 500 * time.Millisecond
		o.Pools = &still{pool.Lease{
			Pool: "p", Member: "a", Strip: []string{"authorization"},
			Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer " + echoedKey)}, {Name: "chatgpt-account-id", Value: []byte("their-account")}},
			Echo:   echo.New([]echo.Secret{{Value: []byte(echoedKey), Placeholder: []byte(echoStub)}}),
		}}
		o.Echoed = func(e Echoed) {
			mu.Lock()
			defer mu.Unlock()
			*seen = append(*seen, e)
		}
	}
}

func compressed(encoding, text string) string {
	var b bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	case "br":
		w = brotli.NewWriter(&b)
	case "zstd":
		w, _ = zstd.NewWriter(&b)
	default:
		return text
	}
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

// reply is what an origin answers: parts that are flushed one by one.
type reply struct {
	kind, encoding string
	parts          []string
	length         bool // Content-Length is sent
	status         int
}

func (a reply) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", a.kind)
	if a.encoding != "" {
		w.Header().Set("Content-Encoding", a.encoding)
	}
	if a.length {
		w.Header().Set("Content-Length", fmt.Sprint(len(strings.Join(a.parts, ""))))
	}
	w.WriteHeader(max(a.status, 200))
	for _, part := range a.parts {
		_, _ = io.WriteString(w, part)
		_ = http.NewResponseController(w).Flush()
	}
}

func letters(s string) []string { return strings.Split(s, "") }

// TestEchoesAreReplaced: whatever the answer's shape, the agent gets the placeholder, or no
// more of the answer.
func TestEchoesAreReplaced(t *testing.T) {
	t.Parallel()
	const text = `{"error":{"message":"Incorrect API key provided: ` + echoedKey + `."}}`
	const want = `{"error":{"message":"Incorrect API key provided: ` + echoStub + `."}}`
	same := strings.Replace(text, echoedKey, echoStub+strings.Repeat("x", len(echoedKey)-len(echoStub)), 1)
	stream := "data: {\"a\":1}\n\ndata: " + echoedKey + "\n\ndata: end\n\n"
	long := strings.Repeat("x", 300<<10) + text + strings.Repeat("y", 300<<10)
	for name, c := range map[string]struct {
		reply
		want string // "": cut off
	}{
		"JSON":                      {reply{kind: "application/json", parts: []string{text}, length: true}, want},
		"error":                     {reply{kind: "application/json; charset=utf-8", parts: []string{text}, length: true, status: 400}, want},
		"JSON in pieces":            {reply{kind: "application/json", parts: []string{text[:60], text[60:70], text[70:]}}, want},
		"JSON letter by letter":     {reply{kind: "application/problem+json", parts: letters(text)}, want},
		"text":                      {reply{kind: "text/plain", parts: []string{text}, length: true}, want},
		"text in pieces":            {reply{kind: "text/plain", parts: []string{text[:60], text[60:]}}, same},
		"text letter by letter":     {reply{kind: "text/plain", parts: letters(text)}, same},
		"events":                    {reply{kind: "text/event-stream", parts: strings.SplitAfter(stream, "\n\n")}, strings.Replace(stream, echoedKey, same[len(text)-len(echoedKey)-4:len(text)-4], 1)},
		"long":                      {reply{kind: "application/json", parts: []string{long}, length: true}, strings.Replace(long, text, same, 1)},
		"long in chunks":            {reply{kind: "text/plain", parts: []string{long[:307250], long[307250:]}}, strings.Replace(long, text, same, 1)},
		"base64":                    {reply{kind: "text/plain", parts: []string{base64.StdEncoding.EncodeToString([]byte("user:" + echoedKey))}, length: true}, base64.StdEncoding.EncodeToString([]byte("user:" + echoedKey[:1] + same[len(text)-len(echoedKey)-3:len(text)-4]))},
		"JSON with escapes":         {reply{kind: "application/json", parts: []string{strings.Replace(text, echoedKey, escapedKey, 1)}}, want},
		"events with escapes":       {reply{kind: "text/event-stream", parts: letters("data: " + escapedKey + "\n\n")}, "data: " + echoStub + strings.Repeat("x", len(escapedKey)-len(echoStub)) + "\n\n"},
		"text as of a URL":          {reply{kind: "text/plain", parts: []string{"?k=" + percentKey[:10], percentKey[10:] + "&"}}, "?k=" + echoStub + strings.Repeat("x", len(percentKey)-len(echoStub)) + "&"},
		"deflate with escapes":      {reply{kind: "application/json", encoding: "deflate", parts: letters(compressed("deflate", strings.Replace(text, echoedKey, escapedKey, 1)))}, want},
		"gzip":                      {reply{kind: "application/json", encoding: "gzip", parts: []string{compressed("gzip", text)}, length: true}, want},
		"gzip in pieces":            {reply{kind: "text/html", encoding: "gzip", parts: letters(compressed("gzip", text))}, want},
		"br":                        {reply{kind: "application/json", encoding: "br", parts: []string{compressed("br", text)}}, want},
		"zstd":                      {reply{kind: "application/json", encoding: "zstd", parts: []string{compressed("zstd", text)}}, want},
		"gzip events":               {reply{kind: "text/event-stream", encoding: "gzip", parts: []string{compressed("gzip", stream)}}, ""},
		"zstd events in pieces":     {reply{kind: "text/event-stream", encoding: "zstd", parts: letters(compressed("zstd", stream))}, ""},
		"gzip events in pieces":     {reply{kind: "text/event-stream", encoding: "gzip", parts: letters(compressed("gzip", stream))}, ""},
		"br events in pieces":       {reply{kind: "text/event-stream", encoding: "br", parts: letters(compressed("br", stream))}, ""},
		"gzip that is none":         {reply{kind: "application/json", encoding: "gzip", parts: []string{text}, length: true}, same},
		"br that is none, in bits":  {reply{kind: "text/html", encoding: "br", parts: letters(text)}, same},
		"gzip events that are none": {reply{kind: "text/event-stream", encoding: "gzip", parts: strings.SplitAfter(stream, "\n\n")}, strings.Replace(stream, echoedKey, same[len(text)-len(echoedKey)-4:len(text)-4], 1)},
		"gzip with more behind it":  {reply{kind: "application/json", encoding: "gzip", parts: []string{compressed("gzip", "{}") + text}, length: true}, compressed("gzip", "{}") + same},
		"zstd with more behind it":  {reply{kind: "text/event-stream", encoding: "zstd", parts: []string{compressed("zstd", "data: x\n\n"), text}}, compressed("zstd", "data: x\n\n") + same},
		"deflated noise":            {reply{kind: "text/html", encoding: "deflate", parts: []string{compressed("deflate", string(noise(300<<10))+echoedKey+stream)}}, ""},
		"gzip of something endless": {reply{kind: "application/json", encoding: "gzip", parts: []string{compressed("gzip", strings.Repeat(" ", 9<<20)+text)}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				var mu sync.Mutex
				var seen []Echoed
				b := newBench(t, setup{protos: protos, handler: c.reply, change: parrot(&seen, &mu)})
				r := newRequest("GET", nil)
				r.Header.Set("Accept-Encoding", "gzip, br, zstd")
				resp, err := b.client(h2).Do(r)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				plain := decode(body, resp.Header.Get("Content-Encoding"), 64<<20)
				if strings.Contains(string(plain)+string(body), echoedKey) {
					t.Errorf("the agent sees it: %.200s %.200s", plain, body)
				}
				switch {
				case c.want == "" && err == nil && resp.StatusCode != 502:
					t.Errorf("was not cut off: %.200s", body)
				case c.want != "" && (err != nil || !closeTo(string(body), c.want, name)):
					t.Errorf("%v: got %.300s\nwant %.300s", err, body, c.want)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(seen) != 1 || seen[0] != (Echoed{Pool: "p", Member: "a", Host: testHost, Cut: c.want == ""}) || b.x.Snapshot().Echoes != 1 {
					t.Errorf("told %+v", seen)
				}
			})
		})
	}
}

// closeTo compares; of base64 the characters at the seams are not told in advance.
func closeTo(got, want, name string) bool {
	if name == "base64" {
		text, err := base64.StdEncoding.DecodeString(got)
		return err == nil && strings.HasPrefix(string(text), "user:s") && strings.Contains(string(text), echoStub[2:]) && len(got) == len(want)
	}
	return got == want
}

// TestCleanAnswersArePassedOnAsTheyAre, compressed ones too.
func TestCleanAnswersArePassedOnAsTheyAre(t *testing.T) {
	t.Parallel()
	const text = `{"text":"sk-proj- and sk-proj-A+b/c is no key"}`
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		for _, encoding := range []string{"", "gzip", "br", "zstd", "unheard-of"} {
			for _, kind := range []string{"application/json", "text/event-stream"} {
				body := compressed(encoding, text)
				var mu sync.Mutex
				var seen []Echoed
				b := newBench(t, setup{protos: protos, handler: reply{kind: kind, encoding: encoding, parts: letters(body), length: encoding == "gzip"}, change: parrot(&seen, &mu)})
				r := newRequest("GET", nil)
				r.Header.Set("Accept-Encoding", "gzip")
				resp, got := ask(t, b.client(h2), r)
				if got != body || resp.Header.Get("Content-Encoding") != encoding || (resp.ContentLength == int64(len(body))) != (encoding == "gzip") {
					t.Errorf("%q %s: %q, want %q", encoding, kind, got, body)
				}
				if len(seen) != 0 {
					t.Errorf("told %+v", seen)
				}
			}
		}
	})
}

// TestSecretInPieces shows what is not seen: an answer that repeats the secret, of which the server gives one range after
// the other (RFC 9110 section 14).
func TestSecretInPieces(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		var mu sync.Mutex
		var seen []Echoed
		b := newBench(t, setup{protos: protos, change: parrot(&seen, &mu), handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "echo.txt", time.Time{}, strings.NewReader(r.Header.Get("Authorization")))
		})})
		var pieces string
		for at := len("Bearer "); len(pieces) < len(echoedKey); at += 6 {
			r := newRequest("GET", nil)
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+5))
			_, piece := ask(t, b.client(h2), r)
			pieces += piece
		}
		if pieces != echoedKey {
			t.Errorf("it is not true any more that ranges are not seen through: %q", pieces)
		}
		if _, whole := ask(t, b.client(h2), newRequest("GET", nil)); strings.Contains(whole, echoedKey) {
			t.Error("the agent sees it whole")
		}
	})
}

// TestOnlyCodingsThatAreSeenThroughAreAskedFor where there is a secret to look for.
func TestOnlyCodingsThatAreSeenThroughAreAskedFor(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		asked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, strings.Join(r.Header["Accept-Encoding"], " | "))
		})
		var mu sync.Mutex
		var seen []Echoed
		looks := newBench(t, setup{protos: protos, handler: asked, change: parrot(&seen, &mu)})
		looksNot := newBench(t, setup{protos: protos, handler: asked})
		for accept, want := range map[string]string{
			"gzip, deflate, br, zstd": "gzip, deflate, br, zstd", "GZip;q=0.5 ,\tidentity ; q=0": "GZip;q=0.5 ,\tidentity ; q=0", "": "",
			"gzip, br, zstd, dcb, dcz": "gzip, br, zstd", "compress, x-gzip;q=0.3, *;q=0.1": "x-gzip;q=0.3", "dcb": "identity", "*": "identity",
		} {
			for _, b := range []*bench{looks, looksNot} {
				r := newRequest("GET", nil)
				r.Header["Accept-Encoding"] = []string{accept}
				if b == looksNot {
					want = accept
				}
				if _, got := ask(t, b.client(h2), r); got != want {
					t.Errorf("%q became %q, want %q", accept, got, want)
				}
			}
		}
		r := newRequest("GET", nil)
		r.Header["Accept-Encoding"] = []string{"dcb", "gzip"}
		if _, got := ask(t, looks.client(h2), r); got != "gzip" {
			t.Errorf("of two lines, of which one is left: %q", got)
		}
	})
}

// TestCompressedEventsAreNotHeldBack: what a sender flushes is with the agent before the
// sender goes on.
func TestCompressedEventsAreNotHeldBack(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"gzip", "deflate", "br", "zstd"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				read := make(chan struct{})
				var mu sync.Mutex
				var seen []Echoed
				b := newBench(t, setup{protos: protos, change: parrot(&seen, &mu), handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					w.Header().Set("Content-Encoding", encoding)
					out := flusher(encoding, w)
					for i := range 20 {
						fmt.Fprintf(out, "data: %d %x\n\n", i, noise(i*20))
						if err := out.Flush(); err != nil {
							return
						}
						_ = http.NewResponseController(w).Flush()
						select {
						case <-read:
						case <-r.Context().Done():
							return
						}
					}
				})})
				r := newRequest("GET", nil)
				r.Header.Set("Accept-Encoding", encoding)
				resp, err := b.client(h2).Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				text, done, err := decoder(resp.Body, encoding)
				if err != nil {
					t.Fatal(err)
				}
				defer done()
				for i, events := 0, bufio.NewReader(text); i < 20; i++ {
					line, err := events.ReadString('\n')
					if _, again := events.ReadString('\n'); err != nil || again != nil || !strings.HasPrefix(line, fmt.Sprintf("data: %d ", i)) {
						t.Fatalf("event %d: %q, %v", i, line, err)
					}
					read <- struct{}{}
				}
			})
		})
	}
}

// flusher compresses, and can be told to give out what it has.
func flusher(encoding string, w io.Writer) interface {
	io.Writer
	Flush() error
} {
	switch encoding {
	case "gzip":
		return gzip.NewWriter(w)
	case "deflate":
		return zlib.NewWriter(w)
	case "br":
		return brotli.NewWriter(w)
	}
	z, _ := zstd.NewWriter(w)
	return z
}

func TestEchoesInFieldsAreReplaced(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		var mu sync.Mutex
		var seen []Echoed
		b := newBench(t, setup{protos: protos, change: parrot(&seen, &mu), handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</>; rel=preload; k="+echoedKey)
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("Www-Authenticate", `Bearer error="`+echoedKey+`"`)
			w.Header().Set("Location", "/login?key=sk-proj-A%2bb%2fc%3d31415926535897932384626433832795")
			w.Header().Set("Trailer", "X-Key")
			_, _ = io.WriteString(w, strings.Repeat("x", 5000))
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("X-Key", echoedKey)
		})})
		hints := ""
		r := newRequest("GET", nil)
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			hints += h.Get("Link")
			return nil
		}}))
		resp, err := b.client(h2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if hints != "</>; rel=preload; k="+echoStub {
			t.Errorf("early hints: %q", hints)
		}
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Error(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("Www-Authenticate"); got != `Bearer error="`+echoStub+`"` {
			t.Error(got)
		}
		if got := resp.Header.Get("Location"); got != "/login?key="+echoStub {
			t.Error(got)
		}
		if got := resp.Trailer.Get("X-Key"); !strings.HasPrefix(got, echoStub) {
			t.Errorf("trailer %q", got)
		}
	})
}

// TestEchoesInTrailersAreReplaced, whatever the body before them is and however much of the
// answer comes with one read.
func TestEchoesInTrailersAreReplaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ kind, encoding, body string }{
		"a document":          {"application/json", "", "{}"},
		"text":                {"text/plain", "", "hello"},
		"nothing":             {"text/plain", "", ""},
		"events":              {"text/event-stream", "", "data: x\n\n"},
		"what is long":        {"text/plain", "", strings.Repeat("x", 300<<10)},
		"a packed document":   {"application/json", "gzip", compressed("gzip", "{}")},
		"packed events":       {"text/event-stream", "zstd", compressed("zstd", "data: x\n\n")},
		"an unknown coding":   {"application/json", "unheard-of", "{}"},
		"a document with one": {"application/json", "", `{"key":"` + echoedKey + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, later := range []int{0, 1, 20} { // of its last bytes
				var mu sync.Mutex
				var seen []Echoed
				b := newBench(t, setup{change: parrot(&seen, &mu), raw: func(_ int, conn net.Conn) {
					defer conn.Close()
					if _, err := readRequest(bufio.NewReader(conn)); err != nil {
						return
					}
					answer := "HTTP/1.1 200 OK\r\nContent-Type: " + c.kind + "\r\nTransfer-Encoding: chunked\r\nTrailer: X-Key\r\n"
					if c.encoding != "" {
						answer += "Content-Encoding: " + c.encoding + "\r\n"
					}
					answer += "\r\n"
					if c.body != "" {
						answer += fmt.Sprintf("%x\r\n%s\r\n", len(c.body), c.body)
					}
					answer += "0\r\nX-Key: " + echoedKey + "\r\n\r\n"
					_, _ = io.WriteString(conn, answer[:len(answer)-later])
					if later > 0 {
						time.Sleep(50 * time.Millisecond)
						_, _ = io.WriteString(conn, answer[len(answer)-later:])
					}
					_, _ = io.Copy(io.Discard, conn)
				}})
				resp, body := ask(t, b.client(false), newRequest("GET", nil))
				if got := resp.Trailer.Get("X-Key"); strings.Contains(got+body, echoedKey) || got != "" && !strings.HasPrefix(got, echoStub) {
					t.Errorf("%d bytes later: trailer %q behind %.100q", later, got, body)
				}
				mu.Lock()
				if len(seen) != 1 {
					t.Errorf("%d bytes later: told %+v", later, seen)
				}
				mu.Unlock()
			}
		})
	}
}

// TestAnAgentFindsItsOwnAccount: a document that names the member's account names the
// agent's own to the agent, which looks for that.
func TestAnAgentFindsItsOwnAccount(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		var mu sync.Mutex
		var seen []Echoed
		b := newBench(t, setup{protos: protos, change: parrot(&seen, &mu), handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"accounts":[{"id":%q,"name":"their-account of old"}],"ids":{"their-account":1}}`, r.Header.Get("Chatgpt-Account-Id"))
		})})
		r := newRequest("GET", nil)
		r.Header.Set("ChatGPT-Account-ID", "my-own-account-id")
		if _, got := ask(t, b.client(h2), r); got != `{"accounts":[{"id":"my-own-account-id","name":"their-account of old"}],"ids":{"my-own-account-id":1}}` {
			t.Error(got)
		}
		if _, got := ask(t, b.client(h2), newRequest("GET", nil)); !strings.Contains(got, `"id":"their-account"`) {
			t.Errorf("an agent that has none: %s", got)
		}
		if len(seen) != 0 {
			t.Errorf("told %+v", seen)
		}
	})
}

// TestEchoesBehindAnUpgrade: frames are not known here, but what is in them is.
func TestEchoesBehindAnUpgrade(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []Echoed
	b := newBench(t, setup{change: parrot(&seen, &mu), raw: func(_ int, c net.Conn) {
		defer c.Close()
		head, err := readRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		if strings.Contains(strings.ToLower(head), "permessage-deflate") || !strings.Contains(head, "Sec-WebSocket-Key: k") {
			t.Errorf("the upstream is asked for frames that nobody can look into: %s", head)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
		for _, part := range []string{"\x81\x05hello", "\x81\x7e\x00\x36 " + echoedKey[:20], echoedKey[20:] + " end", "sk-"} {
			_, _ = io.WriteString(c, part)
			time.Sleep(20 * time.Millisecond)
		}
		_ = c.(*tls.Conn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}})
	c := b.dial("http/1.1")
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+testHost+"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: k\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	want := "\x81\x05hello\x81\x7e\x00\x36 " + echoStub + strings.Repeat("x", len(echoedKey)-len(echoStub)) + " endsk-"
	if !strings.HasSuffix(string(got), "\r\n\r\n"+want) {
		t.Errorf("%q", got)
	}
	eventually(t, "the end of the upgrade", func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == 1 })
}
