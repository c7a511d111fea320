package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// loaded is what a load client says of itself, each quarter of a second and at its end.
type loaded struct {
	Sent, Answered int
	Waiting        int // requests that are not answered yet
	Connects       int
	Failed         []lostRequest // since the last report
	Slowest        time.Duration
}

// lostRequest is one without a whole answer.
type lostRequest struct {
	Kind  string
	Begun time.Time
	After time.Duration
	Error string
}

func (f lostRequest) String() string {
	return fmt.Sprintf("%s, begun %s, after %s: %s", f.Kind, f.Begun.Format("05.000"), f.After, f.Error)
}

// loadOrder says what a load client does.
type loadOrder struct {
	Address string        // that all connects are for
	Rate    int           // requests a second, whatever became of the ones before
	Limit   time.Duration // for one request, its connect and handshake included
}

// leastWaiting may always wait at a time, and above that what a second without an answer brings together.
const leastWaiting = 200

const loadHost = "api.openai.com"

// loadClient is an agent that asks at a fixed rate, as far as the machine copes with it, until its standard input ends. It sends nothing twice: what
// is lost is told. Of ten requests one is on a connection of its own, one is a stream, one is HTTP/2.
func loadClient() {
	var order loadOrder
	if err := json.Unmarshal([]byte(os.Args[1]), &order); err != nil {
		panic(err)
	}
	l := &load{order: order, config: &tls.Config{ServerName: loadHost, NextProtos: []string{"http/1.1"}}}
	l.h2 = &http.Client{Timeout: order.Limit, Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			l.count(func(s *loaded) { s.Connects++ })
			return new(net.Dialer).DialContext(ctx, "tcp", order.Address)
		},
	}}
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	var asking sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(order.Rate))
	tell := time.NewTicker(250 * time.Millisecond)
	began := time.Now()
	for n := 0; ; {
		select {
		case <-over:
			asking.Wait()
			l.print()
			return
		case <-tell.C:
			l.print()
		case <-tick.C:
			// A ticker drops what comes too late; the rate is kept all the same.
			for due := int(time.Since(began).Seconds() * float64(order.Rate)); n < due; n++ {
				if l.waiting() >= max(order.Rate, leastWaiting) {
					continue // the machine is too busy for this rate: those would only make it worse
				}
				number := n
				asking.Go(func() { l.one(number) })
			}
		}
	}
}

type load struct {
	order  loadOrder
	config *tls.Config
	h2     *http.Client

	mu    sync.Mutex
	state loaded
	idle  []*loadConn
}

type loadConn struct {
	*tls.Conn
	in *bufio.Reader
}

func (l *load) count(change func(*loaded)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.state)
}

func (l *load) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Waiting
}

func (l *load) print() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(l.state); err != nil {
		panic(err)
	}
	l.state.Failed = nil
}

func (l *load) one(n int) {
	l.count(func(s *loaded) { s.Sent++; s.Waiting++ })
	began := time.Now()
	kind, err := "kept", error(nil)
	switch n % 10 {
	case 0:
		kind, err = "fresh", l.ask(true, chatBody)
	case 1:
		kind, err = "stream", l.ask(false, streamBody)
	case 2:
		kind, err = "h2", l.askH2()
	default:
		err = l.ask(false, chatBody)
	}
	l.count(func(s *loaded) {
		s.Waiting--
		s.Slowest = max(s.Slowest, time.Since(began))
		if err == nil {
			s.Answered++
			return
		}
		s.Failed = append(s.Failed, lostRequest{kind, began, time.Since(began), err.Error()})
	})
}

var streamBody = strings.Replace(chatBody, "{", `{"stream":true,`, 1)

func (l *load) askH2() error {
	r, err := http.NewRequest(http.MethodPost, "https://"+loadHost+"/v1/chat/completions", strings.NewReader(chatBody))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := l.h2.Do(r)
	if err != nil {
		return err
	}
	return whole(resp, 2)
}

// whole reads an answer to its end.
func whole(resp *http.Response, major int) error {
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != major || len(text) == 0 {
		return fmt.Errorf("%s %s: %s", resp.Proto, resp.Status, text)
	}
	return nil
}

// ask sends a request on a connection that is not in use, or on one of its own.
func (l *load) ask(fresh bool, body string) (err error) {
	c, err := l.connection(fresh)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	_ = c.SetDeadline(time.Now().Add(l.order.Limit))
	if _, err = fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", loadHost, len(body), body); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err := whole(resp, 1); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if resp.Close || fresh {
		return c.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, c)
	return nil
}

// connection is the one that was used last: the ones below fall quiet, and the daemon
// closes them when it ends. What is closed by then is not used.
func (l *load) connection(fresh bool) (*loadConn, error) {
	for !fresh {
		l.mu.Lock()
		n := len(l.idle)
		if n == 0 {
			l.mu.Unlock()
			break
		}
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		if c.open() {
			return c, nil
		}
		_ = c.Close()
	}
	l.count(func(s *loaded) { s.Connects++ })
	ctx, cancel := context.WithTimeout(context.Background(), l.order.Limit)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", l.order.Address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, l.config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return &loadConn{c, bufio.NewReader(c)}, nil
}

// open looks whether the other side has said the end, with which alone a connection that
// is not in use can be read.
func (c *loadConn) open() bool {
	raw, err := c.NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	ctl := raw.Control(func(fd uintptr) {
		_, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return ctl == nil && errors.Is(err, unix.EAGAIN)
}
