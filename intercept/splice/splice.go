// Package splice passes bytes between two connections without looking at them.
package splice

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Relay passes bytes both ways until both directions have ended or ctx is done,
// and closes neither connection. The end of one direction is passed on as such
// (half-close), a reset as a reset. The bytes stay in the kernel (splice(2), which
// [net.TCPConn.ReadFrom] uses between TCP connections). up and down are how many
// went from client to upstream and back.
func Relay(ctx context.Context, client, upstream *net.TCPConn) (up, down int64, err error) {
	// A deadline in the past ends reads and writes that wait; the connections are the caller's to close.
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = client.SetDeadline(past)
		_ = upstream.SetDeadline(past)
	})
	defer stop()
	var upErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		up, upErr = copyOneWay(upstream, client)
	}()
	down, err = copyOneWay(client, upstream)
	<-done
	if ctx.Err() != nil {
		return up, down, ctx.Err()
	}
	return up, down, errors.Join(upErr, err)
}

// copyOneWay passes bytes until src ends, and then the end.
func copyOneWay(dst, src *net.TCPConn) (int64, error) {
	n, err := dst.ReadFrom(src)
	if err == nil {
		// The peer may be gone already, and then nobody is left to tell.
		_ = dst.CloseWrite()
		return n, nil
	}
	// One side is broken: the other has to know, and its own direction would wait for ever.
	reset(dst)
	reset(src)
	// How connections end, and how the other direction, or ctx, ended this one: no faults.
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrDeadlineExceeded) {
		return n, nil
	}
	return n, fmt.Errorf("pass bytes on: %w", err)
}

// reset makes the caller's close abort the connection (RST), and ends what waits on it.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.SetDeadline(time.Unix(1, 0))
}
