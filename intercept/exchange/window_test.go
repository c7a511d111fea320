package exchange

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/intercept/sniff"
	"github.com/sluice-proxy/sluice/pool"
)

// TestUnreadAnswerIsBounded has an origin send an answer over HTTP/2 that its client does not read. What it gets rid of
// is held here, in memory and not by the kernel: it stops at the stream's window.
func TestUnreadAnswerIsBounded(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	b := newBench(t, setup{protos: []string{"h2", "http/1.1"}, handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 16<<10); ; sent.Add(int64(len(piece))) {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})})
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: b.ca.pool},
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}, // what a client leaves in its own
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", b.addr)
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + testHost + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Fatalf("answered by %s", resp.Proto)
	}
	const window, more = 1 << 20, 512 << 10
	last, since := sent.Load(), time.Now()
	for time.Since(since) < time.Second {
		if now := sent.Load(); now != last {
			last, since = now, time.Now()
		}
		if last > window+more {
			t.Fatalf("%d bytes were taken of an answer that nobody reads", last)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if last < window/2 {
		t.Errorf("only %d bytes were taken: a window for far upstreams has more", last)
	}
}

// TestUnreadAnswersShareARoom has one target open more of them than there is memory for. It is held to its part, and another
// target's answers go on.
func TestUnreadAnswersShareARoom(t *testing.T) {
	t.Parallel()
	const room, streams = 128 << 20, 240
	var active atomic.Int64
	b := newBench(t, setup{
		protos: []string{"h2", "http/1.1"},
		change: func(o *Options) { o.ReplayBudget = room },
		handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			active.Add(1)
			defer active.Add(-1)
			for piece := make([]byte, 16<<10); r.URL.Path == "/"; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
			_, _ = w.Write(make([]byte, 100<<10))
		}),
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var other Share
	var served sync.WaitGroup
	served.Go(func() {
		if c, err := l.Accept(); err == nil {
			u := Upstream{NetNS: 1, Addr: b.origin, Host: testHost, Port: 443}
			b.x.Serve(t.Context(), c.(*net.TCPConn), sniff.Hello{Kind: sniff.KindTLS, ServerName: testHost}, u,
				pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: "openai"}, &other)
		}
	})
	t.Cleanup(func() { _ = l.Close(); served.Wait() })
	client := func(addr string) *http.Client {
		c := &http.Client{Transport: &http.Transport{
			ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: b.ca.pool},
			HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			},
		}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	noisy := client(b.addr)
	for range streams {
		resp, err := noisy.Get("https://" + testHost + "/")
		if err != nil {
			continue // it was cut off
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
	const part = room / streamWindow * 3 / 4
	for deadline := time.Now().Add(unreadTime + 15*time.Second); active.Load() > part; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d answers wait to be read, a target may have %d", active.Load(), part)
		}
	}
	if n := active.Load(); n < part/2 {
		t.Errorf("only %d answers are left", n)
	}
	resp, err := client(l.Addr().String()).Get("https://" + testHost + "/short")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 100<<10 {
		t.Errorf("another target's answer: %d bytes, %v", n, err)
	}
}

// TestAnswersWrittenAtOnceAreAllPassedOn has hundreds of streams get their events at the same moment, again and again: that they wait for each
// other to be written is no sign of a client that does not read.
func TestAnswersWrittenAtOnceAreAllPassedOn(t *testing.T) {
	t.Parallel()
	const streams, events, size = 600, 20, 2 << 10
	var begun atomic.Int64
	var mu sync.Mutex
	tick, ticks := make(chan struct{}), 0
	next := func(n int) <-chan struct{} {
		mu.Lock()
		defer mu.Unlock()
		if n < ticks {
			return closedChannel()
		}
		return tick
	}
	b := newBench(t, setup{
		protos: []string{"h2", "http/1.1"},
		change: func(o *Options) { o.ReplayBudget = 1 << 20 }, // so that there is as much as there is always
		handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("content-type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			begun.Add(1)
			for n := range events {
				select {
				case <-next(n):
				case <-r.Context().Done():
					return
				}
				_, _ = w.Write(make([]byte, size))
				_ = http.NewResponseController(w).Flush()
			}
		}),
	})
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: b.ca.pool},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", b.addr)
		},
	}}
	defer client.CloseIdleConnections()
	var failed atomic.Int64
	var reading sync.WaitGroup
	for range streams {
		reading.Go(func() {
			resp, err := client.Get("https://" + testHost + "/")
			if err != nil {
				failed.Add(1)
				t.Log(err)
				return
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != events*size {
				failed.Add(1)
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); begun.Load() < streams && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	for range events {
		mu.Lock()
		close(tick)
		tick = make(chan struct{})
		ticks++
		mu.Unlock()
		time.Sleep(30 * time.Millisecond)
	}
	reading.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d answers were cut off, though all were read", n, streams)
	}
}

func closedChannel() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
