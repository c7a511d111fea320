package simulator

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// maxHead is how much of a connection's input is kept while looking for the
// head of a request, to tell the order of its fields.
const maxHead = 128 << 10

// connInfo is what a request can ask of the connection that it came on.
type connInfo struct {
	number     uint64
	raw        net.Conn // below TLS
	secure     bool
	serverName string
	heads      *headRecorder // nil on HTTP/2
}

// reset ends the connection with a RST instead of a FIN.
func (c *connInfo) reset() {
	if linger, ok := c.raw.(interface{ SetLinger(int) error }); ok {
		_ = linger.SetLinger(0) // the connection may be gone already
	}
	_ = c.raw.Close()
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	// A *tls.Conn on HTTP/2, because net/http knows h2 by this very type; a plainText on HTTP/1.1.
	if over, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = over.NetConn()
	}
	if k, ok := c.(*keptConn); ok {
		return context.WithValue(ctx, connKey{}, k.info)
	}
	return ctx
}

// accept takes connections until the listener is closed, and does their handshakes.
func (s *Simulator) accept(ctx context.Context, l net.Listener, config *tls.Config) {
	for {
		raw, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as a full file table: it may pass
			s.options.Log.Warn("accept", "error", err)
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-ctx.Done():
				return
			}
		}
		kept := s.conns.add(raw)
		if kept == nil {
			_ = raw.Close() // closing down
			return
		}
		s.running.Go(func() { s.handshake(ctx, kept, config) })
	}
}

func (s *Simulator) handshake(ctx context.Context, kept *keptConn, config *tls.Config) {
	if config == nil {
		kept.info.heads = &headRecorder{}
		s.queue.put(kept)
		return
	}
	kept.info.secure = true
	secure := tls.Server(kept, config)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		s.options.Log.Debug("tls handshake", "remote", kept.RemoteAddr().String(), "error", err)
		_ = kept.Close()
		return
	}
	state := secure.ConnectionState()
	kept.info.serverName = state.ServerName
	if state.NegotiatedProtocol == "h2" {
		s.queue.put(secure)
		return
	}
	kept.info.heads = &headRecorder{}
	s.queue.put(&plainText{keptConn: kept, tls: secure})
}

// keptConn is a connection that the simulator can find again.
type keptConn struct {
	net.Conn
	info *connInfo
	once sync.Once
	gone func()
}

// Read implements net.Conn.
func (c *keptConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.info.secure {
		c.info.heads.write(p[:n])
	}
	return n, err
}

// Close implements net.Conn.
func (c *keptConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.gone)
	return err
}

// plainText is an HTTP/1.1 connection over TLS whose decrypted input is watched.
type plainText struct {
	*keptConn
	tls *tls.Conn
}

// Read implements net.Conn.
func (c *plainText) Read(p []byte) (int, error) {
	n, err := c.tls.Read(p)
	c.info.heads.write(p[:n])
	return n, err
}

// Write implements net.Conn.
func (c *plainText) Write(p []byte) (int, error) { return c.tls.Write(p) }

// Close implements net.Conn.
func (c *plainText) Close() error {
	// close_notify goes out if it can; what counts is the socket.
	_ = c.tls.SetWriteDeadline(time.Now().Add(time.Second))
	_ = c.tls.CloseWrite()
	return c.keptConn.Close()
}

// NetConn lets withConn find the connection's info.
func (c *plainText) NetConn() net.Conn { return c.keptConn }

// connSet is every connection that is open.
type connSet struct {
	mu     sync.Mutex
	next   uint64
	open   map[*keptConn]struct{}
	closed bool
	left   sync.WaitGroup
}

// add returns nil when the set is closed.
func (s *connSet) add(c net.Conn) *keptConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.next++
	k := &keptConn{Conn: c, info: &connInfo{number: s.next, raw: c}}
	k.gone = func() {
		s.mu.Lock()
		delete(s.open, k)
		s.mu.Unlock()
		s.left.Done()
	}
	if s.open == nil {
		s.open = make(map[*keptConn]struct{})
	}
	s.open[k] = struct{}{}
	s.left.Add(1)
	return k
}

func (s *connSet) close() {
	s.mu.Lock()
	s.closed = true
	open := make([]*keptConn, 0, len(s.open))
	for c := range s.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close() // whoever uses it finds out
	}
}

// enter counts a handler; false = closing down.
func (s *connSet) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.left.Add(1)
	return true
}

func (s *connSet) leave() { s.left.Done() }

// wait returns once every connection is closed and every handler has returned.
func (s *connSet) wait() { s.left.Wait() }

// connQueue is the listener that net/http sees: what comes out of it has done its handshake.
type connQueue struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newConnQueue() *connQueue {
	return &connQueue{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *connQueue) put(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr implements net.Listener.
func (q *connQueue) Addr() net.Addr { return &net.TCPAddr{} }

// headRecorder keeps the latest input of an HTTP/1.1 connection, because
// net/http forgets the order and the case of fields.
type headRecorder struct {
	mu  sync.Mutex
	raw []byte
}

func (h *headRecorder) write(p []byte) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.raw)+len(p) > 2*maxHead {
		h.raw = append(h.raw[:0], h.raw[max(0, len(h.raw)-maxHead):]...)
	}
	h.raw = append(h.raw, p[max(0, len(p)-maxHead):]...)
}

// take returns the field lines of the request that has just been read, as they
// came. The request line is looked for from the end: what is before it is an
// earlier request's body.
func (h *headRecorder) take(requestLine string) (fields []field) {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	start := bytes.LastIndex(h.raw, []byte(requestLine+"\r\n"))
	if start < 0 {
		return nil
	}
	head, _, found := bytes.Cut(h.raw[start+len(requestLine)+2:], []byte("\r\n\r\n"))
	if !found {
		return nil
	}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		fields = append(fields, field{string(name), string(bytes.TrimSpace(value))})
	}
	h.raw = h.raw[:0]
	return fields
}

// field is one header field line.
type field struct{ Name, Value string }
