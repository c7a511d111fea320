package intercept

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/intercept/sniff"
)

// firstPeek is the size of the buffer that a beginning is looked at in; it grows for the
// rare long one.
const firstPeek = 4 << 10

// peek waits until the socket holds more than have bytes, or will not get more, and
// copies the first of them to buf. Nothing is consumed.
func peek(raw syscall.RawConn, buf []byte, have int) (n int, eof bool, err error) {
	waited := raw.Read(func(fd uintptr) bool {
		if n, err = look(fd, buf); errors.Is(err, unix.EAGAIN) {
			n, err = 0, nil
			return false
		}
		if err != nil || n > have {
			return true
		}
		if n == 0 {
			eof = true
			return true
		}
		if !shut(fd) {
			return false // the poller wakes us for each further segment
		}
		// More may have come just before the end.
		n, err = look(fd, buf)
		eof = n <= have
		return true
	})
	if err == nil {
		err = waited
	}
	return n, eof, err
}

func look(fd uintptr, buf []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), os.NewSyscallError("recvfrom", err)
		}
	}
}

// shut tells whether the peer has ended its direction.
func shut(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// beginning is how the look at a connection's first bytes ended.
type beginning uint8

const (
	beginHello       beginning = iota // they were understood
	beginServer                       // the server speaks first, or the client has nothing to say
	beginSilent                       // neither side spoke
	beginSlow                         // it took too long
	beginCutShort                     // the client ended inside it
	beginOverLong                     // more than sniff.MaxHello
	beginMalformed                    // says that it is TLS or HTTP, and is not
	beginLost                         // the connection failed
	beginUnreachable                  // the original destination did not answer
)

// sniff looks at the first bytes. A client that is silent for Options.Silence may be
// waiting for the server: then the destination is dialled, and whoever speaks first
// decides. A client that speaks first is looked at however late it does, so that a late
// ClientHello cannot take a bound host past us.
func (c *conn) sniff(ctx context.Context) (sniff.Hello, beginning) {
	kept := c.in.buffers.Get().(*[]byte)
	defer c.in.buffers.Put(kept)
	buf := *kept

	n, eof, err := c.peekWithin(ctx, c.in.opts.Silence, buf, 0)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		var first beginning
		if n, eof, first = c.waitEither(ctx, buf); first != beginHello {
			return sniff.Hello{}, first
		}
		err = nil
	}
	begun := c.in.opts.Now()
	for {
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
			return sniff.Hello{}, beginSlow
		case err != nil:
			return sniff.Hello{}, beginLost
		case n == 0:
			return sniff.Hello{}, beginServer // closed its side without a word
		}
		h, bad := sniff.Parse(buf[:n])
		switch {
		case bad == nil:
			return h, beginHello
		case errors.Is(bad, sniff.ErrTooLong):
			return h, beginOverLong
		case !errors.Is(bad, sniff.ErrIncomplete):
			return h, beginMalformed
		case eof:
			return h, beginCutShort
		case n > sniff.MaxHello:
			return h, beginOverLong
		}
		if n == len(buf) {
			buf = make([]byte, min(4*len(buf), sniff.MaxHello+1))
		}
		left := c.in.opts.HelloTimeout - c.in.opts.Now().Sub(begun)
		n, eof, err = c.peekWithin(ctx, left, buf, n)
	}
}

// peekWithin is peek with a limit on its time. It leaves the connection without a deadline.
func (c *conn) peekWithin(ctx context.Context, limit time.Duration, buf []byte, have int) (n int, eof bool, err error) {
	if err := c.client.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return 0, false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.client.SetReadDeadline(past()) })
	n, eof, err = peek(c.raw, buf, have)
	if !stop() && err == nil {
		return 0, false, ctx.Err()
	}
	if err == nil {
		err = c.client.SetReadDeadline(time.Time{})
	}
	return n, eof, err
}

// past is a deadline that has passed.
func past() time.Time { return time.Unix(1, 0) }

// waitEither dials the original destination and waits for the first word of either side.
// It is beginHello when the client spoke, even if the server did at the same moment.
func (c *conn) waitEither(ctx context.Context, buf []byte) (n int, eof bool, first beginning) {
	up, err := c.dial(ctx)
	if err != nil {
		return 0, false, beginUnreachable
	}
	c.upstream = up
	raw, err := up.SyscallConn()
	if err != nil {
		return 0, false, beginLost
	}
	limit := time.Now().Add(c.in.opts.Idle)
	if err := errors.Join(c.client.SetReadDeadline(limit), up.SetReadDeadline(limit)); err != nil {
		return 0, false, beginLost
	}
	stop := context.AfterFunc(ctx, func() {
		_ = c.client.SetReadDeadline(past())
		_ = up.SetReadDeadline(past())
	})
	defer stop()
	spoke := make(chan bool, 1)
	go func() {
		_, _, err := peek(raw, make([]byte, 1), 0)
		// A reset is the server's word too: the relay passes it on.
		done := !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed)
		if done {
			_ = c.client.SetReadDeadline(past())
		}
		spoke <- done
	}()
	n, eof, err = peek(c.raw, buf, 0)
	_ = up.SetReadDeadline(past())
	server := <-spoke
	if ctx.Err() != nil {
		return 0, false, beginLost
	}
	clear := errors.Join(c.client.SetReadDeadline(time.Time{}), up.SetReadDeadline(time.Time{}))
	switch {
	case clear != nil:
		return 0, false, beginLost
	case err == nil && n == 0:
		return 0, true, beginServer
	case err == nil:
		return n, eof, beginHello
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return 0, false, beginLost
	case server:
		return 0, false, beginServer
	}
	return 0, false, beginSilent
}
