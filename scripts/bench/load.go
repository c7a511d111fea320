package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// loadRole makes this program the clients. It prints "go" when the measurement
// begins, "end" when it is over, and then the sample as JSON.
const loadRole = "load"

// warmUp is how long requests are sent before they count.
const warmUp = 400 * time.Millisecond

// sample is what one measurement of the clients gave.
type sample struct {
	Count   int     `json:"count"`   // requests answered, or events read
	Seconds float64 `json:"seconds"` // the time that took
	P50     float64 `json:"p50_us"`  // of the latencies, in microseconds
	P99     float64 `json:"p99_us"`
}

// clients is what the load is made with.
type clients struct {
	addr    string
	tls     *tls.Config
	key     string
	seconds time.Duration
	say     io.Writer
}

func load(args []string) error {
	flags := flag.NewFlagSet(loadRole, flag.ContinueOnError)
	addr := flags.String("addr", "", "address to connect to")
	roots := flags.String("roots", "", "CA that is trusted (PEM)")
	key := flags.String("key", "", "key to send")
	seconds := flags.Float64("seconds", 1, "length of the measurement")
	connections := flags.Int("connections", 0, "connections with small requests")
	streams := flags.Int("streams", 0, "event streams, instead")
	interval := flags.Duration("interval", 0, "of their events")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pem, err := os.ReadFile(*roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: no certificate", *roots)
	}
	c := &clients{
		addr: *addr, key: *key, seconds: time.Duration(*seconds * float64(time.Second)), say: os.Stdout,
		tls: &tls.Config{RootCAs: pool, ServerName: upstreamHost, NextProtos: []string{"http/1.1"}},
	}
	var s sample
	if *streams > 0 {
		s, err = c.readStreams(*streams, *interval)
	} else {
		s, err = c.sendRequests(*connections)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

func (c *clients) dial() (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, c.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// sendRequests keeps n connections busy, each with one request after the other.
func (c *clients) sendRequests(n int) (sample, error) {
	const body = `{"model":"gpt-4o","stream":false,"messages":[{"role":"system","content":"You are a helpful assistant."},` +
		`{"role":"user","content":"Say something."}]}`
	request := fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: application/json\r\n"+
		"Authorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", upstreamHost, c.key, len(body), body)
	var phase atomic.Int32 // 0 warming up, 1 counting, 2 over
	var group sync.WaitGroup
	latencies, errs := make([][]time.Duration, n), make([]error, n)
	for i := range n {
		conn, err := c.dial()
		if err != nil {
			phase.Store(2)
			group.Wait()
			return sample{}, fmt.Errorf("connection %d: %w", i, err)
		}
		group.Go(func() {
			defer conn.Close()
			latencies[i], errs[i] = requests(conn, request, &phase)
		})
	}
	time.Sleep(warmUp)
	phase.Store(1)
	fmt.Fprintln(c.say, "go")
	start := time.Now()
	time.Sleep(c.seconds)
	phase.Store(2)
	took := time.Since(start)
	fmt.Fprintln(c.say, "end")
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return sample{}, err
	}
	return newSample(slices.Concat(latencies...), took)
}

// requests sends on one connection until the phase is over.
func requests(conn net.Conn, request []byte, phase *atomic.Int32) ([]time.Duration, error) {
	latencies := make([]time.Duration, 0, 1<<16)
	in := bufio.NewReaderSize(conn, 16<<10)
	for {
		counts := phase.Load()
		if counts == 2 {
			return latencies, nil
		}
		start := time.Now()
		if _, err := conn.Write(request); err != nil {
			return nil, fmt.Errorf("send: %w", err)
		}
		if err := readAnswer(in); err != nil {
			return nil, fmt.Errorf("answer: %w", err)
		}
		if counts == 1 && phase.Load() == 1 {
			latencies = append(latencies, time.Since(start))
		}
	}
}

// readAnswer reads one answer with a Content-Length and insists on status 200.
func readAnswer(in *bufio.Reader) error {
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
	if length != len(answerBody) {
		return fmt.Errorf("content-length %d, not %d", length, len(answerBody))
	}
	_, err = in.Discard(length)
	return err
}

// readStreams opens n streams, spread over an interval, and measures how late
// each event is read after it was sent.
func (c *clients) readStreams(n int, interval time.Duration) (sample, error) {
	var phase atomic.Int32
	var group, flowing sync.WaitGroup
	lateness, errs := make([][]time.Duration, n), make([]error, n)
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
		group.Wait()
	}()
	failed := make(chan error, n)
	flowing.Add(n)
	for i := range n {
		conn, err := c.dial()
		if err != nil {
			phase.Store(2)
			return sample{}, fmt.Errorf("stream %d: %w", i, err)
		}
		conns = append(conns, conn)
		group.Go(func() {
			lateness[i], errs[i] = events(conn, c.key, &phase, sync.OnceFunc(flowing.Done))
			if errs[i] != nil {
				failed <- errs[i]
			}
		})
		time.Sleep(interval / time.Duration(n))
	}
	all := make(chan struct{})
	go func() { flowing.Wait(); close(all) }()
	select {
	case <-all:
	case err := <-failed:
		phase.Store(2)
		return sample{}, err
	case <-time.After(20 * time.Second):
		phase.Store(2)
		return sample{}, errors.New("not every stream's first event came within 20 s")
	}
	time.Sleep(warmUp)
	phase.Store(1)
	fmt.Fprintln(c.say, "go")
	start := time.Now()
	time.Sleep(c.seconds)
	phase.Store(2)
	took := time.Since(start)
	fmt.Fprintln(c.say, "end")
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return sample{}, err
	}
	return newSample(slices.Concat(lateness...), took)
}

// events reads one stream until the phase is over.
func events(conn net.Conn, key string, phase *atomic.Int32, first func()) ([]time.Duration, error) {
	_, err := fmt.Fprintf(conn, "GET /stream HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nAuthorization: Bearer %s\r\n\r\n", upstreamHost, key)
	if err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	answer, err := http.ReadResponse(bufio.NewReaderSize(conn, 16<<10), nil)
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answer: %s", answer.Status)
	}
	var lateness []time.Duration
	lines := bufio.NewReader(answer.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
		data, found := strings.CutPrefix(line, "data: ")
		if !found {
			continue
		}
		stamp, _, _ := strings.Cut(data, " ")
		sent, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
		first()
		switch phase.Load() {
		case 1:
			lateness = append(lateness, time.Duration(simulator.Monotonic()-sent))
		case 2:
			return lateness, nil
		}
	}
}

func newSample(all []time.Duration, took time.Duration) (sample, error) {
	if len(all) == 0 {
		return sample{}, errors.New("nothing was answered")
	}
	slices.Sort(all)
	at := func(share float64) float64 {
		return float64(all[min(len(all)-1, int(share*float64(len(all))))]) / float64(time.Microsecond)
	}
	return sample{Count: len(all), Seconds: took.Seconds(), P50: at(0.50), P99: at(0.99)}, nil
}
