package simulator

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// transportPath finds what answers a path that tests HTTP rather than an API; nil = none.
func transportPath(path string) func(*visit) {
	if strings.HasPrefix(path, "/status/") {
		return status
	}
	return map[string]func(*visit){
		"/echo": echo, "/stream": ticks, "/bytes": payload, "/upload": upload, "/hints": hints, "/trailers": trailers,
		"/reset": resetAfter, "/hang": hang, "/websocket": webSocket, "/upgrade": upgrade,
	}[path]
}

// Received is what /echo answers with.
type Received struct {
	Method     string      `json:"method"`
	Target     string      `json:"target"` // the request target as it was sent
	Proto      string      `json:"proto"`
	Host       string      `json:"host"`
	ServerName string      `json:"server_name"`
	Remote     string      `json:"remote"`
	Fields     [][2]string `json:"fields"` // as received, in order; on HTTP/2 the order and the case are lost
	Trailer    http.Header `json:"trailer,omitempty"`
	BodyBytes  int64       `json:"body_bytes"`
	BodySHA256 string      `json:"body_sha256,omitempty"`
}

// echo tells what arrived.
func echo(v *visit) {
	e := Received{
		Method: v.r.Method, Target: v.r.RequestURI, Proto: v.r.Proto, Host: v.r.Host, Remote: v.r.RemoteAddr,
	}
	if v.conn != nil {
		e.ServerName = v.conn.serverName
		for _, f := range v.conn.heads.take(v.r.Method + " " + v.r.RequestURI + " " + v.r.Proto) {
			e.Fields = append(e.Fields, [2]string{f.Name, f.Value})
		}
	}
	if e.Fields == nil {
		for name, values := range v.r.Header {
			for _, value := range values {
				e.Fields = append(e.Fields, [2]string{strings.ToLower(name), value})
			}
		}
	}
	if !v.drain() {
		return
	}
	e.BodyBytes, e.BodySHA256, e.Trailer = v.body.n, v.body.hex(), v.r.Trailer
	v.json(http.StatusOK, e)
}

// status is /status/N: that status, with the query's "body" or none.
func status(v *visit) {
	code, err := strconv.Atoi(strings.TrimPrefix(v.r.URL.Path, "/status/"))
	if err != nil || code < 200 || code > 599 {
		v.json(http.StatusBadRequest, map[string]string{"error": "status: a number between 200 and 599 is needed"})
		return
	}
	if !v.drain() {
		return
	}
	for name, values := range v.query() {
		if header, ok := strings.CutPrefix(name, "header."); ok {
			v.Header()[http.CanonicalHeaderKey(header)] = values
		}
	}
	v.WriteHeader(code)
	if body := v.query().Get("body"); body != "" && code != http.StatusNoContent && code != http.StatusNotModified {
		_, _ = io.WriteString(v, body)
	}
}

// Payload is the first n bytes of what /bytes answers with.
func Payload(n int64) io.Reader { return io.LimitReader(&pattern{}, n) }

// pattern is endless and the same each time; its period is a prime, so that a
// shift by any buffer's size shows.
type pattern struct{ at int }

// Read implements io.Reader.
func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.at*7 + p.at/251)
		p.at = (p.at + 1) % 65521
	}
	return len(b), nil
}

// payload is /bytes?n=N: N bytes. chunked=1 sends no Content-Length, gzip=1
// compresses, piece=N and interval=T drip.
func payload(v *visit) {
	n := int64(number(v, "n", 1024))
	h := v.Header()
	h.Set("Content-Type", "application/octet-stream")
	var out io.Writer = v
	switch {
	case v.query().Has("gzip"):
		h.Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(v)
		defer z.Close()
		out = z
	case !v.query().Has("chunked"):
		h.Set("Content-Length", strconv.FormatInt(n, 10))
	}
	if v.r.Method == http.MethodHead {
		v.WriteHeader(http.StatusOK)
		return
	}
	piece, interval := int64(number(v, "piece", 64<<10)), span(v, "interval", 0)
	source := Payload(n)
	flusher := http.NewResponseController(v.answer)
	for {
		sent, err := io.CopyN(out, source, piece)
		if err != nil || sent == 0 {
			return
		}
		if interval > 0 {
			if flusher.Flush() != nil || !v.pause(interval) {
				return
			}
		}
	}
}

// upload reads the body, by default to its end, and answers with its size and
// hash, delay=T later. early=N answers with status N before it has read anything.
func upload(v *visit) {
	if early := number(v, "early", 0); early >= 200 && early <= 599 {
		v.json(early, map[string]string{"error": "answered before the body was read"})
		return
	}
	if !v.drain() || !v.pause(span(v, "delay", 0)) {
		return
	}
	sum := v.body.hex()
	if sum == "" {
		empty := sha256.Sum256(nil)
		sum = hex.EncodeToString(empty[:])
	}
	v.json(http.StatusOK, map[string]any{"bytes": v.body.n, "sha256": sum, "trailer": v.r.Trailer})
}

// hints sends 103 Early Hints (RFC 8297) before its answer.
func hints(v *visit) {
	v.Header().Set("Link", "</style.css>; rel=preload; as=style")
	v.WriteHeader(http.StatusEarlyHints)
	if !v.pause(span(v, "delay", 0)) {
		return
	}
	v.json(http.StatusOK, map[string]string{"after": "103"})
}

// trailers answers with a body and a trailer section.
func trailers(v *visit) {
	v.Header().Set("Trailer", "X-Checksum, X-Count")
	v.Header().Set("Content-Type", "text/plain")
	v.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(v, "body\n")
	v.Header().Set("X-Checksum", "b0d1e5")
	v.Header().Set("X-Count", "1")
}

// resetAfter is /reset?after=N: N bytes of a longer answer, then a RST; with
// stream=1 on HTTP/2 only the stream is reset. before=1 sends no header section at all.
func resetAfter(v *visit) {
	after := int64(number(v, "after", 100))
	if !v.query().Has("before") {
		v.Header().Set("Content-Type", "application/octet-stream")
		v.Header().Set("Content-Length", strconv.FormatInt(after+1000, 10))
		v.WriteHeader(http.StatusOK)
		if _, err := io.Copy(v, Payload(after)); err != nil {
			return
		}
		if http.NewResponseController(v.answer).Flush() != nil {
			return
		}
	}
	if !v.query().Has("stream") && v.conn != nil {
		v.conn.reset()
	}
	panic(http.ErrAbortHandler)
}

// hang answers nothing until the client goes away; header=1 sends the header section first.
func hang(v *visit) {
	if v.query().Has("header") {
		v.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(v.answer).Flush()
	}
	// The client's going away is noticed only once the body has been read.
	if v.drain() {
		<-v.r.Context().Done()
	}
}

// upgrade switches to the protocol "echo": bytes come back as they are.
func upgrade(v *visit) {
	protocol := v.r.Header.Get("Upgrade")
	if protocol == "" {
		v.Header().Set("Upgrade", "echo")
		v.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(v.answer).Hijack()
	if err != nil { // HTTP/2 has no upgrade
		v.WriteHeader(http.StatusHTTPVersionNotSupported)
		return
	}
	defer conn.Close()
	v.status = http.StatusSwitchingProtocols
	v.note(func(e *Entry) { e.Upgraded, e.Status = protocol, http.StatusSwitchingProtocols })
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n"); err != nil {
		return
	}
	v.sent, _ = io.Copy(conn, readBuffered(buffered.Reader, conn)) // either side may end it
}

// readBuffered reads what the HTTP server had read ahead, then the connection.
func readBuffered(ahead *bufio.Reader, then io.Reader) io.Reader {
	return io.MultiReader(io.LimitReader(ahead, int64(ahead.Buffered())), then)
}

// number reads a query parameter; an unreadable one is the default.
func number(v *visit, name string, otherwise int) int {
	n, err := strconv.Atoi(v.query().Get(name))
	if err != nil || n < 0 {
		return otherwise
	}
	return n
}

// span reads a duration such as 20ms.
func span(v *visit, name string, otherwise time.Duration) time.Duration {
	d, err := time.ParseDuration(v.query().Get(name))
	if err != nil || d < 0 {
		return otherwise
	}
	return d
}
