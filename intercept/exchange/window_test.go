package exchange

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
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
