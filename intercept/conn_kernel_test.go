package intercept

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/bpf"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/exchange"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// street is a namespace with an attached process, an origin, and the way between.
type street struct {
	*bench
	t      *testing.T
	ns     *netns.NS
	cgroup uint64
	target Target
	origin *net.TCPListener
}

// newStreet opens an origin on port 443 that each connection's handler serves.
func newStreet(t *testing.T, edit func(*bench, *Options), handle func(*net.TCPConn)) *street {
	t.Helper()
	dir := newCgroup(t)
	ns := newNetNS(t)
	origin, err := ns.Listen(t.Context(), "tcp4", originAddr+":443")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := origin.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	t.Cleanup(func() { origin.Close(); <-done })
	b := newBench(t, edit)
	startIn(t, dir, ns)
	target, err := b.Attach(t.Context(), Request{Cgroup: dir})
	must(t, err)
	id, err := cgroup.ID(dir)
	must(t, err)
	return &street{bench: b, t: t, ns: ns, cgroup: id, target: target, origin: origin}
}

// connect makes a connection as the programs would have redirected it.
func (s *street) connect(dst string) *net.TCPConn {
	s.t.Helper()
	c, err := s.dial(dst)
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	must(s.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c.(*net.TCPConn)
}

// dial may fail if the connection is reset at once.
func (s *street) dial(dst string) (c net.Conn, err error) {
	s.t.Helper()
	l, ok := s.kernel.listener(s.ns.Cookie())
	if !ok {
		s.t.Fatal("no listener")
	}
	// The flow must be there before the connect, so the source port is chosen first.
	probe, err := s.ns.Listen(s.t.Context(), "tcp4", "127.0.0.1:0")
	must(s.t, err)
	source := probe.Addr().(*net.TCPAddr)
	probe.Close()
	s.kernel.mu.Lock()
	s.kernel.flows[source.AddrPort()] = bpf.Flow{Dst: netip.MustParseAddrPort(dst), CgroupID: s.cgroup, Cookie: s.ns.Cookie(), PID: 7}
	s.kernel.mu.Unlock()
	err = s.ns.Do(func() (err error) {
		d := net.Dialer{LocalAddr: source, Timeout: 5 * time.Second}
		c, err = d.Dial("tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), l.Port4).String())
		return err
	})
	return c, err
}

func (s *street) origin443() string { return originAddr + ":443" }

func echoBack(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// ended asserts that the peer closes without a byte.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	got, err := io.ReadAll(c)
	if len(got) != 0 || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Errorf("got %q, %v instead of an end", got, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// clientHello is a real one for a name ("" for none).
func clientHello(t *testing.T, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		_ = tls.Client(b, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		b.Close()
	}()
	head := make([]byte, 5)
	_, err := io.ReadFull(a, head)
	must(t, err)
	body := make([]byte, int(head[3])<<8|int(head[4]))
	_, err = io.ReadFull(a, body)
	must(t, err)
	return append(head, body...)
}

func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestUnboundHostKeepsItsCertificate(t *testing.T) {
	cert := certificate(t, "other.test")
	s := newStreet(t, nil, func(c *net.TCPConn) {
		server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		_, _ = io.Copy(server, server)
	})
	client := tls.Client(s.connect(s.origin443()), &tls.Config{ServerName: "other.test", InsecureSkipVerify: true})
	_, err := client.Write([]byte("hello\n"))
	must(t, err)
	line, err := bufio.NewReader(client).ReadString('\n')
	must(t, err)
	if seen := client.ConnectionState().PeerCertificates[0].Raw; !bytes.Equal(seen, cert.Certificate[0]) || line != "hello\n" {
		t.Errorf("another certificate, or answer %q", line)
	}
	if c := s.Counters(); c.Spliced != 1 || c.Terminated != 0 {
		t.Errorf("counters %+v", c)
	}
}

func boundHostGoesToTheExchange(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	for name, want := range map[string]string{"bound.test": "served bound.test\n", "Bound.TEST": "served bound.test\n"} {
		hello := clientHello(t, name)
		c := s.connect(s.origin443())
		// In three segments, each on its own: nothing may depend on how it is cut.
		must(t, c.SetNoDelay(true))
		for _, part := range [][]byte{hello[:3], hello[3:60], hello[60:]} {
			_, err := c.Write(part)
			must(t, err)
			eventually(t, "segment delivered", func() bool { return s.unsent(c) == 0 })
		}
		got, _ := io.ReadAll(c)
		if string(got) != want {
			t.Errorf("%s: answered %q", name, got)
		}
	}
	s.desk.mu.Lock()
	defer s.desk.mu.Unlock()
	u := s.desk.served[0]
	if u.Addr.String() != s.origin443() || u.Host != "bound.test" || u.Port != 443 || u.NetNS != s.ns.Cookie() {
		t.Errorf("upstream %+v", u)
	}
}

func TestBoundHostOnAnotherPortIsSpliced(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	other, err := s.ns.Listen(t.Context(), "tcp4", originAddr+":8443")
	must(t, err)
	defer other.Close()
	hello := clientHello(t, "bound.test")
	c := s.connect(originAddr + ":8443")
	_, err = c.Write(hello)
	must(t, err)
	at, err := other.AcceptTCP()
	must(t, err)
	defer at.Close()
	got := make([]byte, len(hello))
	_, err = io.ReadFull(at, got)
	must(t, err)
	if !bytes.Equal(got, hello) {
		t.Error("the ClientHello was changed")
	}
}

func halfCloseIsKept(t *testing.T) {
	s := newStreet(t, nil, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c) // ends only with the client's half
		_, _ = c.Write(bytes.ToUpper(all))
	})
	c := s.connect(s.origin443())
	_, err := c.Write([]byte("a plain protocol"))
	must(t, err)
	must(t, c.CloseWrite())
	got, err := io.ReadAll(c)
	must(t, err)
	if string(got) != "A PLAIN PROTOCOL" {
		t.Errorf("got %q", got)
	}
}

func serverThatSpeaksFirst(t *testing.T) {
	s := newStreet(t, nil, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("SSH-2.0-test\r\n"))
		echoBack(c)
	})
	c := s.connect(s.origin443())
	r := bufio.NewReader(c)
	banner, err := r.ReadString('\n')
	must(t, err)
	_, err = c.Write([]byte("hello\n"))
	must(t, err)
	line, err := r.ReadString('\n')
	must(t, err)
	if banner != "SSH-2.0-test\r\n" || line != "hello\n" {
		t.Errorf("banner %q, then %q", banner, line)
	}
}

func TestLateClientHelloIsStillSeen(t *testing.T) {
	dialled := make(chan struct{}, 1)
	s := newStreet(t, func(_ *bench, o *Options) { o.Idle = 5 * time.Second }, func(c *net.TCPConn) {
		dialled <- struct{}{}
		echoBack(c)
	})
	c := s.connect(s.origin443())
	<-dialled // the silence is over and the origin has been given the word
	_, err := c.Write(clientHello(t, "bound.test"))
	must(t, err)
	if got, _ := io.ReadAll(c); string(got) != "served bound.test\n" {
		t.Errorf("answered %q", got)
	}
}

func TestSilentClientIsClosedAndCounted(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	ended(t, s.connect(s.origin443()))
	if c := s.Counters(); c.Silent != 1 {
		t.Errorf("counters %+v", c)
	}
}

func TestBadBeginnings(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	hello := clientHello(t, "bound.test")
	cases := []struct {
		name  string
		play  func(*net.TCPConn)
		count func(Counters) uint64
	}{
		{"cut short", func(c *net.TCPConn) { _, _ = c.Write(hello[:40]); _ = c.CloseWrite() }, func(c Counters) uint64 { return c.CutShort }},
		{"stalls", func(c *net.TCPConn) { _, _ = c.Write(hello[:40]) }, func(c Counters) uint64 { return c.Slow }},
		{"over-long", func(c *net.TCPConn) { _, _ = c.Write(overLong()) }, func(c Counters) uint64 { return c.OverLong }},
		{"malformed", func(c *net.TCPConn) { _, _ = c.Write([]byte("\x16\x03\x01\x00\x05hello world")) }, func(c Counters) uint64 { return c.Malformed }},
		{"an alert before it", func(c *net.TCPConn) { _, _ = c.Write(append([]byte("\x15\x03\x01\x00\x02\x01\x5a"), hello...)) }, func(c Counters) uint64 { return c.Malformed }},
	}
	for _, tc := range cases {
		before := tc.count(s.Counters())
		c := s.connect(s.origin443())
		tc.play(c)
		ended(t, c)
		if got := tc.count(s.Counters()) - before; got != 1 {
			t.Errorf("%s: counted %d times: %+v", tc.name, got, s.Counters())
		}
	}
	if c := s.Counters(); c.Spliced+c.Terminated != 0 {
		t.Errorf("passed on: %+v", c)
	}
}

// overLong is a ClientHello whose length field says 16 MiB.
func overLong() []byte {
	return []byte{0x16, 3, 1, 0x40, 0x00, 1, 0xff, 0xff, 0xff, 3, 3}
}

func byteAtATimeIsBounded(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	c := s.connect(s.origin443())
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, b := range clientHello(t, "bound.test") {
		<-tick.C
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("went on for %s", took)
	}
	if n := s.Counters().Slow; n != 1 {
		t.Errorf("slow counted %d times", n)
	}
}

func TestPlainHTTP(t *testing.T) {
	denied := make(chan exchange.Denial, 1)
	s := newStreet(t, func(_ *bench, o *Options) { o.Denied = func(d exchange.Denial) { denied <- d } }, echoBack)
	c := s.connect(s.origin443())
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: bound.test\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusMisdirectedRequest || !strings.Contains(string(body), "use https") {
		t.Errorf("answered %d %q", resp.StatusCode, body)
	}
	must(t, c.CloseWrite())
	if d := <-denied; d.Host != "bound.test" || d.Pool != "p" || d.Sent != "bound.test" || d.NetNS != s.ns.Cookie() {
		t.Errorf("told of %+v", d)
	}
	c = s.connect(s.origin443())
	const request = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n"
	_, err = io.WriteString(c, request)
	must(t, err)
	must(t, c.CloseWrite())
	if got, _ := io.ReadAll(c); string(got) != request {
		t.Errorf("an unbound host's request arrived as %q", got)
	}
}

func connectToTheListenerItselfIsClosed(t *testing.T) {
	var reached bool
	s := newStreet(t, nil, func(*net.TCPConn) { reached = true })
	l, _ := s.kernel.listener(s.ns.Cookie())
	for i, host := range []string{"127.0.0.1", "0.0.0.0"} {
		c, err := s.ns.Dial(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(host), l.Port4))
		must(t, err)
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		_, err = c.Write(clientHello(t, "bound.test"))
		must(t, err)
		ended(t, c)
		c.Close()
		if n := s.Counters().Unsolicited; n != uint64(i+1) {
			t.Errorf("%s: unsolicited counted %d times", host, n)
		}
	}
	// It listens on 127.0.0.1 only.
	if c, err := s.ns.Dial(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), l.Port4)); err == nil {
		c.Close()
		t.Error("127.0.0.2 is listened on")
	}
	if reached {
		t.Error("the origin was dialled")
	}
}

func TestUnreachableDestinationResets(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	for _, dst := range []string{originAddr + ":444", "198.51.100.1:443", "127.0.0.1:443"} {
		c, err := s.dial(dst)
		if err != nil { // reset before we have seen that it was accepted
			if !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("%s: %v", dst, err)
			}
			continue
		}
		must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = c.Write([]byte("hello"))
		if err == nil { // else the write was told of the reset, and the read would not be
			_, err = io.ReadAll(c)
		}
		if err == nil {
			t.Errorf("%s: a regular end", dst)
		}
		_ = c.Close()
	}
	eventually(t, "each is counted", func() bool { return s.Counters().Unreachable == 3 })
}

func TestDetachClosesConnections(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	c := s.connect(s.origin443())
	_, err := c.Write([]byte("hello"))
	must(t, err)
	_, err = io.ReadFull(c, make([]byte, 5))
	must(t, err)
	if got := s.Targets()[0].Connections; got != 1 {
		t.Errorf("%d connections", got)
	}
	must(t, s.Detach(t.Context(), s.target.ID))
	ended(t, c)
	eventually(t, "no connection left", func() bool { return s.Connections() == 0 })
}

func TestConnectionOfNoTargetIsClosed(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	s.cgroup = 1 // the root
	c := s.connect(s.origin443())
	ended(t, c)
	if n := s.Counters().Foreign; n != 1 {
		t.Errorf("counted %d times", n)
	}
}

func TestStopDrainsThenCuts(t *testing.T) {
	s := newStreet(t, nil, echoBack)
	c := s.connect(s.origin443())
	_, err := c.Write([]byte("hello"))
	must(t, err)
	_, err = io.ReadFull(c, make([]byte, 5))
	must(t, err)
	begin := time.Now()
	s.stop()
	if took := time.Since(begin); took < 250*time.Millisecond || took > 5*time.Second {
		t.Errorf("stopped after %s; the drain time is 300 ms", took)
	}
	ended(t, c)
	if attached, listeners := s.kernel.counts(); attached != 1 || listeners != 1 {
		t.Errorf("%d attached, %d listeners: stopping must leave both, so that it fails closed", attached, listeners)
	}
	if _, err := s.Attach(t.Context(), Request{Cgroup: s.target.Cgroup}); !errors.Is(err, ErrStopped) {
		t.Errorf("attach after the end: %v", err)
	}
}

// unsent is how many bytes of a connection the peer has not acknowledged (tcp(7), SIOCOUTQ).
func (s *street) unsent(c *net.TCPConn) int {
	s.t.Helper()
	raw, err := c.SyscallConn()
	must(s.t, err)
	var n int
	must(s.t, raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }))
	must(s.t, err)
	return n
}
