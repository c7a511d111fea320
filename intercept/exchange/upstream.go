package exchange

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// upstreamConn is one verified HTTP/1.1 connection to an upstream. One goroutine
// at a time uses it, and a second one writes a long request body.
type upstreamConn struct {
	key    upstreamKey
	raw    *net.TCPConn
	wire   *wire
	tls    *tls.Conn
	in     buffer
	readBy time.Time

	fresh   bool // nothing was sent on it yet
	began   bool // of the request now on it a whole TLS record went out
	expires time.Time
	peek    syscall.RawConn
	peeked  func(fd uintptr) // made once: a closure a request is an allocation a request
	state   connState
}

type connState uint8

const (
	connQuiet connState = iota
	connEnded
	connTalks // has bytes to be read that no request asked for
)

// upstreamKey is what a connection may be used again for: a namespace, the server
// the client meant and a pool. Never another host's requests, never another
// namespace's, never another pool's credentials.
type upstreamKey struct {
	netns uint64
	host  string
	addr  netip.AddrPort
	pool  string
}

func (u Upstream) key() upstreamKey { return upstreamKey{u.NetNS, u.Host, u.Addr, u.pool} }

func (x *Exchanger) newUpstreamConn(u Upstream, c *tls.Conn) *upstreamConn {
	w := c.NetConn().(*wire)
	up := &upstreamConn{key: u.key(), raw: w.TCPConn, wire: w, tls: c, fresh: true}
	up.in.pool = &x.blocks
	up.peek, _ = up.raw.SyscallConn()
	up.peeked = func(fd uintptr) {
		var b [1]byte
		n, errno := peekFD(fd, b[:])
		switch {
		case n > 0:
			up.state = connTalks
		case errno == syscall.EAGAIN:
			up.state = connQuiet
		default:
			up.state = connEnded
		}
	}
	return up
}

// setReadBy sets the read deadline, leaving one alone that is nearly the same.
func (up *upstreamConn) setReadBy(want time.Time) {
	if want.IsZero() && up.readBy.IsZero() {
		return
	}
	if !want.IsZero() && !up.readBy.IsZero() {
		if diff := want.Sub(up.readBy); diff >= 0 && diff < time.Second {
			return
		}
	}
	up.readBy = want
	_ = up.raw.SetReadDeadline(want)
}

// usable looks at the socket without waiting. Bytes that nobody asked for could
// be taken for the answer to the next request, so they end the connection;
// before the first request they are TLS 1.3's session tickets.
func (up *upstreamConn) usable() bool {
	up.state = connEnded
	if up.peek == nil || up.peek.Control(up.peeked) != nil {
		return false
	}
	return up.state == connQuiet || (up.state == connTalks && up.fresh && !ended(up.peek))
}

// ended says whether the peer has closed the connection, or it has failed, be there bytes
// before that to be read or not: a peek sees those first.
func ended(raw syscall.RawConn) bool {
	over := true
	_ = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		over = n != 0 || err != nil
	})
	return over
}

// silent looks into the TLS layer, which reads as much as the socket gives and may
// hold records that nobody asked for: usable cannot see those. The look makes no
// system call.
func (up *upstreamConn) silent() bool {
	up.wire.atHand = true
	var b [1]byte
	n, err := up.tls.Read(b[:])
	up.wire.atHand = false
	return n == 0 && isTimeout(err)
}

// fill reads once, and takes along what the TLS layer has already got from the socket, as far as there is room: of a stream
// that has fallen behind many events go out with one write then.
func (up *upstreamConn) fill(limit int) error {
	in, w := &up.in, up.wire
	if _, err := in.fill(up.tls, limit); err != nil {
		return err
	}
	for left := w.records.whole - 1; left > 0 && in.w < len(in.b); left-- {
		w.atHand = true
		n, err := up.tls.Read(in.b[in.w:])
		w.atHand = false
		in.w += n
		if err != nil {
			break // not lasting, or it comes again
		}
	}
	return nil
}

func (up *upstreamConn) close() {
	up.in.drop()
	up.raw.Close()
}

// idlePool keeps upstream connections between exchanges, last in first out.
type idlePool struct {
	mu    sync.Mutex
	conns map[upstreamKey][]*upstreamConn
	count int // of all keys
	max   int
	shut  bool
}

func (p *idlePool) init(limit int) {
	p.conns, p.max = make(map[upstreamKey][]*upstreamConn), limit
}

// take returns a connection that is still open, or nil.
func (p *idlePool) take(key upstreamKey, now time.Time) *upstreamConn {
	for {
		p.mu.Lock()
		list := p.conns[key]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		up := list[len(list)-1]
		list[len(list)-1] = nil
		p.conns[key] = list[:len(list)-1]
		p.count--
		p.mu.Unlock()
		if now.Before(up.expires) && up.usable() {
			return up
		}
		up.close()
	}
}

// put gives a connection back for the next request.
func (p *idlePool) put(up *upstreamConn, expires time.Time) {
	up.expires = expires
	up.in.release()
	p.mu.Lock()
	if !p.shut && p.count < p.max {
		p.count++
		p.conns[up.key] = append(p.conns[up.key], up)
		up = nil
	}
	p.mu.Unlock()
	if up != nil {
		up.close()
	}
}

// remove closes the connections that match and counts them; with all set it also
// refuses any further one.
func (p *idlePool) remove(all bool, match func(*upstreamConn) bool) int {
	var gone []*upstreamConn
	p.mu.Lock()
	p.shut = p.shut || all
	for key, list := range p.conns {
		kept := list[:0]
		for _, up := range list {
			if all || match(up) {
				gone = append(gone, up)
			} else {
				kept = append(kept, up)
			}
		}
		clear(list[len(kept):])
		if len(kept) == 0 {
			delete(p.conns, key)
		} else {
			p.conns[key] = kept
		}
	}
	p.count -= len(gone)
	p.mu.Unlock()
	for _, up := range gone {
		up.close()
	}
	return len(gone)
}

func (p *idlePool) closeAll() { p.remove(true, nil) }

func (p *idlePool) closeNetNS(cookie uint64) {
	p.remove(false, func(up *upstreamConn) bool { return up.key.netns == cookie })
}

func (p *idlePool) closeExpired(now time.Time) {
	p.remove(false, func(up *upstreamConn) bool { return !now.Before(up.expires) || !up.usable() })
}
