package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// upstream is a lean API server: HTTP/1.1, one goroutine a connection, an answer
// that was made beforehand. A request without the real key is answered 401.
type upstream struct {
	listener net.Listener
	key      []byte
	answer   []byte
	interval time.Duration // of the events of a stream

	mu      sync.Mutex
	closing bool
	open    map[net.Conn]struct{}
	running sync.WaitGroup
}

// answerBody is of the size of a short completion.
const answerBody = `{"id":"chatcmpl-bench","object":"chat.completion","created":1795466400,"model":"gpt-4o","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog while nobody counts its requests.",` +
	`"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":12,` +
	`"completion_tokens":18,"total_tokens":30},"service_tier":"default","system_fingerprint":"fp_bench"}`

func startUpstream(l net.Listener, cert *tls.Certificate, key string, interval time.Duration) *upstream {
	u := &upstream{
		listener: tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}}),
		key:      []byte("Bearer " + key), interval: interval, open: make(map[net.Conn]struct{}),
		answer: fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
			"openai-version: 2020-10-01\r\nx-request-id: req_bench\r\nx-ratelimit-limit-requests: 10000\r\n"+
			"x-ratelimit-remaining-requests: 9999\r\nx-ratelimit-reset-requests: 6ms\r\n\r\n%s", len(answerBody), answerBody),
	}
	u.running.Go(u.accept)
	return u
}

func (u *upstream) accept() {
	for {
		c, err := u.listener.Accept()
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
			u.serve(c)
			_ = c.Close() // the client may be gone already
			u.mu.Lock()
			delete(u.open, c)
			u.mu.Unlock()
		})
	}
}

// close ends the connections and waits for them.
func (u *upstream) close() error {
	err := u.listener.Close()
	u.mu.Lock()
	u.closing = true
	for c := range u.open {
		_ = c.Close()
	}
	u.mu.Unlock()
	u.running.Wait()
	return err
}

// serve answers one connection's requests until it ends.
func (u *upstream) serve(c net.Conn) {
	in := bufio.NewReaderSize(c, 16<<10)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		streaming := bytes.Contains(line, []byte(" /stream "))
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
				authorized = bytes.Equal(value, u.key)
			case bytes.EqualFold(name, []byte("content-length")):
				if length, err = strconv.Atoi(string(value)); err != nil {
					return
				}
			}
		}
		if _, err := in.Discard(length); err != nil {
			return
		}
		switch {
		case !authorized:
			_, err = io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
		case streaming:
			u.stream(c)
			return
		default:
			_, err = c.Write(u.answer)
		}
		if err != nil {
			return
		}
	}
}

// stream sends events, each with the time at which it is sent, until the client is gone.
func (u *upstream) stream(c net.Conn) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	if _, err := io.WriteString(c, head); err != nil {
		return
	}
	filler := strings.Repeat("x", 120)
	ticker := time.NewTicker(u.interval)
	defer ticker.Stop()
	var event, chunk []byte
	for {
		event = fmt.Appendf(event[:0], "data: %d %s\n\n", simulator.Monotonic(), filler)
		chunk = fmt.Appendf(chunk[:0], "%x\r\n%s\r\n", len(event), event)
		if _, err := c.Write(chunk); err != nil {
			return
		}
		<-ticker.C
	}
}
