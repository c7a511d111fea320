package exchange

import (
	"io"
	"net"
	"os"
	"syscall"
)

// wire is a TCP connection whose reads and writes are not announced to Go's scheduler.
// The socket does not block, so neither do they, but a write on loopback carries its
// bytes up to the receiver's queue and takes longer than the 20 us after which the
// scheduler takes a thread for blocked: it then hands the thread's work to another one,
// which cost a tenth of a small request. Waiting is the runtime poller's as ever, and
// deadlines hold. One goroutine at a time may read and one may write; crypto/tls sees to that.
type wire struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
	records records // of what the last Read gave
	atHand  bool    // Read is to give nothing, as a deadline that has passed
}

// transfer is one read or write under way.
type transfer struct {
	p     []byte // to be filled, or not written yet
	n     int
	errno syscall.Errno
	try   func(fd uintptr) (done bool) // made once: a closure a call is an allocation a call
}

func newWire(c *net.TCPConn) (*wire, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{TCPConn: c, raw: raw}
	w.in.try = w.in.read
	w.out.try = w.out.write
	return w, nil
}

// Read implements [io.Reader].
func (w *wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if w.atHand {
		return 0, os.ErrDeadlineExceeded
	}
	t := &w.in
	t.p, t.n, t.errno = p, 0, 0
	err := w.raw.Read(t.try)
	t.p = nil
	switch {
	case err != nil:
		return 0, err
	case t.errno != 0:
		return 0, w.failed("read", t.errno)
	case t.n == 0:
		return 0, io.EOF
	}
	w.records.came(p[:t.n])
	return t.n, nil
}

// Write implements [io.Writer].
func (w *wire) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t := &w.out
	t.p, t.n, t.errno = p, 0, 0
	err := w.raw.Write(t.try)
	t.p = nil
	if err == nil && t.errno != 0 {
		err = w.failed("write", t.errno)
	}
	return t.n, err
}

func (w *wire) failed(call string, errno syscall.Errno) error {
	return &net.OpError{Op: call, Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: os.NewSyscallError(call, errno)}
}

// read is done unless nothing has come yet.
func (t *transfer) read(fd uintptr) bool {
	for {
		n, errno := readFD(fd, t.p)
		switch errno {
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.n, t.errno = n, errno
			return true
		}
	}
}

// write is done when everything is, or when it fails.
func (t *transfer) write(fd uintptr) bool {
	for len(t.p) > 0 {
		n, errno := writeFD(fd, t.p)
		switch errno {
		case 0:
			t.n += n
			t.p = t.p[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.errno = errno
			return true
		}
	}
	return true
}

// records follows the beginnings and ends of TLS records (RFC 8446 section 5.1) through the bytes of a connection. crypto/tls
// gives one record a call, and cannot be asked whether it has another one.
type records struct {
	whole  int    // that ended in the last bytes that came
	left   int    // of the record under way
	length uint16 // its length, as far as its header has come
	header uint8  // bytes of that so far
}

const recordHeader = 5 // its last two bytes are the length of what follows

func (r *records) came(p []byte) {
	r.whole = 0
	for len(p) > 0 {
		if r.left > 0 {
			n := min(r.left, len(p))
			p = p[n:]
			if r.left -= n; r.left == 0 {
				r.whole++
			}
			continue
		}
		r.length = r.length<<8 | uint16(p[0])
		p = p[1:]
		if r.header++; r.header == recordHeader {
			r.header = 0
			if r.left = int(r.length); r.left == 0 {
				r.whole++
			}
		}
	}
}
