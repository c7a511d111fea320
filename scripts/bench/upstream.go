package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// streamPath begins the path of an event stream; the time between two events follows.
const streamPath = "/stream/"

// upstream is a lean API server: one goroutine a connection, answers that were made
// beforehand. A request without a real key is answered 401.
type upstream struct {
	listeners []net.Listener
	key       []byte
	answer    []byte
	block     []byte // of long answers

	mu      sync.Mutex
	closing bool
	open    map[net.Conn]struct{}
	gate    chan struct{} // closed when events may flow
	running sync.WaitGroup
}

// hold keeps back every event but the first of each stream that begins from now on, until
// what it returns is called: thousands of streams could not all be opened while
// the first of them keep the machine busy.
func (u *upstream) hold() (release func()) {
	gate := make(chan struct{})
	u.mu.Lock()
	defer u.mu.Unlock()
	u.gate = gate
	return sync.OnceFunc(func() { close(gate) })
}

// answerBody is of the size of a short completion.
const answerBody = `{"id":"chatcmpl-bench","object":"chat.completion","created":1795466400,"model":"gpt-4o","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog while nobody counts its requests.",` +
	`"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":12,` +
	`"completion_tokens":18,"total_tokens":30},"service_tier":"default","system_fingerprint":"fp_bench"}`

// answerFields are those of every short answer, framing aside.
var answerFields = [][2]string{
	{"content-type", "application/json"},
	{"openai-version", "2020-10-01"},
	{"x-request-id", "req_bench"},
	{"x-ratelimit-limit-requests", "10000"},
	{"x-ratelimit-remaining-requests", "9999"},
	{"x-ratelimit-reset-requests", "6ms"},
}

// startUpstream serves until close. wild is the certificate of all hosts of the zone.
func startUpstream(listeners []net.Listener, cert, wild *tls.Certificate, key string) *upstream {
	u := &upstream{
		key: []byte("Bearer " + key), open: make(map[net.Conn]struct{}), gate: make(chan struct{}),
		block: completion(256 << 10),
	}
	config := &tls.Config{
		NextProtos: []string{"h2", "http/1.1"}, DynamicRecordSizingDisabled: true,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if strings.HasSuffix(h.ServerName, zone) {
				return wild, nil
			}
			return cert, nil
		},
	}
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n", len(answerBody))
	for _, f := range answerFields {
		answer = fmt.Appendf(answer, "%s: %s\r\n", f[0], f[1])
	}
	u.answer = fmt.Appendf(answer, "\r\n%s", answerBody)
	for _, l := range listeners {
		l = tls.NewListener(l, config)
		u.listeners = append(u.listeners, l)
		u.running.Go(func() { u.accept(l) })
	}
	return u
}

func (u *upstream) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the one connection's trouble
		}
		u.mu.Lock()
		if u.closing {
			u.mu.Unlock()
			_ = c.Close()
			return
		}
		u.open[c] = struct{}{}
		u.mu.Unlock()
		u.running.Go(func() {
			u.serve(c.(*tls.Conn))
			_ = c.Close() // the client may be gone already
			u.mu.Lock()
			delete(u.open, c)
			u.mu.Unlock()
		})
	}
}

// close ends the connections and waits for them.
func (u *upstream) close() error {
	var errs []error
	for _, l := range u.listeners {
		errs = append(errs, l.Close())
	}
	u.mu.Lock()
	u.closing = true
	for c := range u.open {
		_ = c.Close()
	}
	u.mu.Unlock()
	u.running.Wait()
	return errors.Join(errs...)
}

func (u *upstream) serve(c *tls.Conn) {
	if c.Handshake() != nil {
		return
	}
	if c.ConnectionState().NegotiatedProtocol == "h2" {
		u.serveH2(c)
		return
	}
	u.serveH1(c)
}

// serveH1 answers one connection's requests until it ends.
func (u *upstream) serveH1(c net.Conn) {
	in := bufio.NewReaderSize(c, 4<<10)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		_, path, _ := strings.Cut(string(line), " ")
		path, _, _ = strings.Cut(path, " ")
		authorized, length := false, 0
		for {
			field, err := in.ReadSlice('\n')
			if err != nil {
				return
			}
			name, value, found := bytes.Cut(bytes.TrimRight(field, "\r\n"), []byte(":"))
			if !found {
				break
			}
			switch value = bytes.TrimSpace(value); {
			case bytes.EqualFold(name, []byte("authorization")):
				authorized = bytes.HasPrefix(value, u.key)
			case bytes.EqualFold(name, []byte("content-length")):
				if length, err = strconv.Atoi(string(value)); err != nil {
					return
				}
			}
		}
		if length > 1<<20-1 && in.Size() < readSize {
			in = bufio.NewReaderSize(in, readSize)
		}
		if _, err := in.Discard(length); err != nil {
			return
		}
		size, long := strings.CutPrefix(path, bytesPath)
		wait, streaming := strings.CutPrefix(path, streamPath)
		switch {
		case !authorized:
			_, err = io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
		case streaming:
			u.stream(c, wait)
			return
		case long && size != "0":
			err = u.send(c, size)
		default:
			_, err = c.Write(u.answer)
		}
		if err != nil {
			return
		}
	}
}

// send answers with that many bytes.
func (u *upstream) send(c net.Conn, size string) error {
	left, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", left)
	for left > 0 && err == nil {
		var n int
		n, err = c.Write(u.block[:min(left, len(u.block))])
		left -= n
	}
	return err
}

// stream sends events, each with the time at which it is sent, until the client is gone.
func (u *upstream) stream(c net.Conn, wait string) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	interval, err := time.ParseDuration(wait)
	if err != nil || interval <= 0 {
		return
	}
	if _, err := io.WriteString(c, head); err != nil {
		return
	}
	gone := make(chan struct{})
	u.running.Go(func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, c)
	})
	filler := strings.Repeat("x", 120)
	var event, chunk []byte
	send := func() error {
		event = fmt.Appendf(event[:0], "data: %d %s\n\n", simulator.Monotonic(), filler)
		chunk = fmt.Appendf(chunk[:0], "%x\r\n%s\r\n", len(event), event)
		_, err := c.Write(chunk)
		return err
	}
	u.mu.Lock()
	gate := u.gate
	u.mu.Unlock()
	if err := send(); err != nil {
		return
	}
	select {
	case <-gate:
	case <-gone:
		return
	}
	// Each stream at a time of its own: models do not speak in step.
	select {
	case <-time.After(rand.N(interval)):
	case <-gone:
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for send() == nil {
		select {
		case <-ticker.C:
		case <-gone:
			return
		}
	}
}
