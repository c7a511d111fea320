// Package splice passes bytes between two connections without looking at them.
package splice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Relay passes bytes both ways until both directions have ended or ctx is done,
// and closes neither connection. The end of one direction is passed on as such
// (half-close), a reset as a reset. The bytes stay in the kernel (splice(2)). A direction
// holds a pipe only while bytes are on their way, so that a connection on which nothing
// happens has no descriptors but its own; where no pipe is to be had the bytes are copied.
// up and down are how many went from client to upstream and back.
func (p *Pipes) Relay(ctx context.Context, client, upstream *net.TCPConn) (up, down int64, err error) {
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
		up, upErr = p.copyOneWay(upstream, client)
	}()
	down, err = p.copyOneWay(client, upstream)
	<-done
	if ctx.Err() != nil {
		return up, down, ctx.Err()
	}
	return up, down, errors.Join(upErr, err)
}

// copyOneWay passes bytes until src ends, and then the end.
func (p *Pipes) copyOneWay(dst, src *net.TCPConn) (int64, error) {
	n, err := p.pass(dst, src)
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

// pass returns nil at the end of src.
func (p *Pipes) pass(dst, src *net.TCPConn) (total int64, err error) {
	from, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return 0, err
	}
	w := way{pipes: p}
	defer w.drop()
	fill, empty := w.fill, w.empty
	for {
		if err := w.after(from.Read(fill)); err != nil {
			return total, err
		}
		if w.pipe == nil && !w.ended {
			n, ended, err := p.copyOnce(dst, src)
			total += n
			if ended || err != nil {
				return total, err
			}
			continue
		}
		if w.ended {
			return total, nil
		}
		total += int64(w.held)
		if err := w.after(to.Write(empty)); err != nil {
			return total - int64(w.held), err
		}
		w.drop()
	}
}

// way is one direction of a relay.
type way struct {
	pipes *Pipes
	pipe  *pipe // nil: none is held
	held  int   // bytes in it
	ended bool
	err   error
}

// most is as much as one splice(2) may move: what a pipe holds. The scheduler waits for it. Measured on loopback, on two processors
// that were busy otherwise, with 200 KiB and more at a time: into a socket 24 to 61 us in the median and less than 0.7 ms in 99 of 100
// cases, out of one 5 to 7 us and less than 0.9 ms.
const most = 1 << 18

// fill moves what the socket has into a pipe. It is false when there is nothing: then no
// pipe is kept.
func (w *way) fill(fd uintptr) bool {
	if w.pipe = w.pipes.get(); w.pipe == nil {
		return true
	}
	n, err := move(int(fd), w.pipe.w)
	switch {
	case errors.Is(err, unix.EAGAIN):
		w.drop()
		return false
	case err != nil || n == 0:
		w.ended, w.err = err == nil, err
		w.drop()
		return true
	}
	w.held = n
	return true
}

// empty moves what is in the pipe out. It is false when the socket takes no more.
func (w *way) empty(fd uintptr) bool {
	for w.held > 0 {
		n, err := move(w.pipe.r, int(fd))
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err == nil && n == 0 {
			err = io.ErrNoProgress
		}
		if err != nil {
			w.err = err
			return true
		}
		w.held -= n
	}
	return true
}

// after is the error of a step: the poller's, or its own.
func (w *way) after(polled error) error {
	if polled != nil {
		return polled
	}
	return w.err
}

// drop gives the pipe back; one with bytes in it is of no use to others.
func (w *way) drop() {
	if w.pipe == nil {
		return
	}
	if w.held > 0 {
		w.pipes.discard(w.pipe)
	} else {
		w.pipes.put(w.pipe)
	}
	w.pipe = nil
}

// move does not wait, and is not announced to Go's scheduler: what goes into a socket on
// loopback is carried up to the receiver's queue, for longer than the 20 us after which the
// scheduler takes a thread for blocked and hands its work to another one.
func move(from, to int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, most, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// copyOnce passes the next bytes on through memory.
func (p *Pipes) copyOnce(dst, src *net.TCPConn) (n int64, ended bool, err error) {
	block, _ := p.blocks.Get().(*[blockSize]byte)
	if block == nil {
		block = new([blockSize]byte)
	}
	defer p.blocks.Put(block)
	got, err := src.Read(block[:])
	if err == io.EOF {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	sent, err := dst.Write(block[:got])
	return int64(sent), false, err
}

// reset makes the caller's close abort the connection (RST), and ends what waits on it.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.SetDeadline(time.Unix(1, 0))
}
