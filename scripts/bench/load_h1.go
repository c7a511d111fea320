package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
)

const (
	chatBody = `{"model":"gpt-4o","stream":false,"messages":[{"role":"system","content":"You are a helpful assistant."},` +
		`{"role":"user","content":"Say something."}]}`
	chatPath  = "/v1/chat/completions"
	bytesPath = "/bytes/" // an answer of as many bytes
	// readSize is large enough that a long body costs the clients little.
	readSize = 64 << 10
)

// conversation is a request body of n bytes as Codex and Claude Code send them: JSON that
// repeats all that was said before.
func conversation(n int) []byte {
	const head, turn, tail = `{"model":"gpt-4o","stream":true,"input":[`,
		`{"type":"message","role":"user","content":[{"type":"input_text","text":"Look at the \"function\" in main.go,\nthen say what it does."}]},`,
		`{"type":"message","role":"user","content":"`
	text := head + strings.Repeat(turn, max(0, n-len(head)-len(tail)-4)/len(turn)) + tail
	return []byte(text + strings.Repeat("x", max(0, n-len(text)-4)) + `"}]}`)
}

// completion is n bytes of what models write: JSON with code in it, in which hardly two lines
// are alike.
func completion(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2)) // the same in every run
	words := strings.Fields(`func return if err nil for range string value with context the a of to and is not close open read write answer`)
	text := []byte(`{"id":"chatcmpl-bench","choices":[{"message":{"role":"assistant","content":"`)
	for len(text) < n {
		text = fmt.Appendf(text, `\t%s %s%d := \"%s\"`, words[random.IntN(len(words))], words[random.IntN(len(words))], random.IntN(1000), words[random.IntN(len(words))])
		for range random.IntN(12) {
			text = append(append(text, ' '), words[random.IntN(len(words))]...)
		}
		text = append(text, `\n`...)
	}
	return text[:n]
}

// h1 is a connection that speaks HTTP/1.1.
type h1 struct {
	clients *clients
	conn    *tls.Conn
	in      *bufio.Reader
	head    []byte
	body    []byte // is sent again and again until length is reached
	length  int
	answer  int
}

func (c *clients) openH1(int) (exchanger, error) {
	conn, err := c.dial("http/1.1", c.host)
	if err != nil {
		return nil, err
	}
	return c.newH1(conn, c.host), nil
}

func (c *clients) newH1(conn *tls.Conn, host string) *h1 {
	e := &h1{clients: c, conn: conn, in: bufio.NewReaderSize(conn, readSize), body: []byte(chatBody), answer: len(answerBody)}
	path := chatPath
	switch {
	case c.up > 1<<20-1:
		e.body, path = completion(256<<10), bytesPath+"0"
	case c.up > 0:
		e.body = conversation(c.up)
	case c.down > 0:
		e.answer, path = c.down, bytesPath+strconv.Itoa(c.down)
	}
	e.length = max(len(e.body), c.up)
	e.head = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: application/json\r\n"+
		"Authorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, host, c.key, e.length)
	if e.length <= 16<<10 { // in one write
		e.head, e.length = append(e.head, e.body...), 0
	}
	return e
}

func (e *h1) Close() error { return e.conn.Close() }

func (e *h1) exchange() error {
	if _, err := e.conn.Write(e.head); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for left := e.length; left > 0; {
		n, err := e.conn.Write(e.body[:min(left, len(e.body))])
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		e.clients.move(n)
		left -= n
	}
	if err := e.clients.readAnswer(e.in, e.answer); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// readAnswer reads one answer with that Content-Length and insists on status 200.
func (c *clients) readAnswer(in *bufio.Reader, want int) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("status line %q", line)
	}
	length := -1
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return err
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found {
			break
		}
		if bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length != want {
		return fmt.Errorf("content-length %d, not %d", length, want)
	}
	for left := length; left > 0; {
		n, err := in.Discard(min(left, readSize))
		if err != nil {
			return err
		}
		c.move(n)
		left -= n
	}
	return nil
}

// fresh is a connection for each exchange.
type fresh struct{ clients *clients }

func (c *clients) openNew(int) (exchanger, error) {
	return &fresh{clients: c}, nil
}

func (*fresh) Close() error { return nil }

// exchange is io.EOF when each of the hosts was asked once.
func (f *fresh) exchange() error {
	c, host := f.clients, f.clients.host
	if c.hosts > 0 {
		i := int(c.asked.Add(1)) - 1
		if i >= c.hosts {
			return io.EOF
		}
		host = fmt.Sprintf(host, c.first+i)
	}
	conn, err := c.dial("http/1.1", host)
	if err != nil {
		return err
	}
	e := c.newH1(conn, host)
	if err := e.exchange(); err != nil {
		_ = conn.Close()
		return err
	}
	return conn.Close()
}
