package simulator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// Options say what is simulated and where. The zero value listens on a free
// port of 127.0.0.1 and knows no credential.
type Options struct {
	Credentials []Credential
	// Addrs are listened on with TLS. nil, with no Listeners either = "127.0.0.1:0".
	Addrs []string
	// Plain are listened on without TLS (HTTP/1.1 and HTTP/2 by prior knowledge).
	Plain []string
	// Listeners and PlainListeners are used besides; Close closes them. A test
	// that has a network namespace of its own makes them in there.
	Listeners, PlainListeners []net.Listener
	// Protocols are what ALPN offers, in order. nil = h2, http/1.1.
	Protocols []string
	// Authority signs the certificates. nil = a new one.
	Authority *Authority
	// Certificate overrides what is presented, by server name. nil = Authority.Leaf.
	Certificate func(serverName string) (*tls.Certificate, error)
	// Text is what the models say. "" = DefaultText.
	Text string
	// JournalSize is how many entries are kept. 0 = 65536, negative = none.
	JournalSize int
	// Log gets what goes wrong with connections. nil = nothing is logged.
	Log *slog.Logger
}

// DefaultText is what the models say.
const DefaultText = "The quick brown fox jumps over the lazy dog while nobody counts its requests."

// Simulator is the upstream. Make it with New, then Start and Close it.
type Simulator struct {
	options     Options
	ca          *Authority
	ledger      *ledger
	journal     *Journal
	possessions possessions
	grpc        *grpc.Server
	stopGRPC    func()

	secure, plain []net.Listener
	queue         *connQueue
	http          *http.Server
	cancel        context.CancelFunc
	running       sync.WaitGroup // accept loops, handshakes, the server, handlers
	conns         connSet
}

// New checks the options. Nothing listens yet.
func New(o Options) (*Simulator, error) {
	if o.Protocols == nil {
		o.Protocols = []string{"h2", "http/1.1"}
	}
	for _, p := range o.Protocols {
		if p != "h2" && p != "http/1.1" {
			return nil, fmt.Errorf("simulator: protocol %q: only h2 and http/1.1 are spoken", p)
		}
	}
	if len(o.Addrs)+len(o.Plain)+len(o.Listeners)+len(o.PlainListeners) == 0 {
		o.Addrs = []string{"127.0.0.1:0"}
	}
	if o.Text == "" {
		o.Text = DefaultText
	}
	if o.JournalSize == 0 {
		o.JournalSize = 65536
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := newLedger(o.Credentials)
	if err != nil {
		return nil, fmt.Errorf("simulator: %w", err)
	}
	ca := o.Authority
	if ca == nil {
		if ca, err = NewAuthority(); err != nil {
			return nil, fmt.Errorf("simulator: %w", err)
		}
	}
	s := &Simulator{options: o, ca: ca, ledger: l, journal: newJournal(o.JournalSize)}
	s.grpc, s.stopGRPC = newGRPC()
	return s, nil
}

// Start listens and serves until Close. When it fails, the listeners that were
// handed in are closed too. The context is that of every request.
func (s *Simulator) Start(ctx context.Context) error {
	s.secure, s.plain = slices.Clone(s.options.Listeners), slices.Clone(s.options.PlainListeners)
	for _, into := range []struct {
		addrs     []string
		listeners *[]net.Listener
	}{{s.options.Addrs, &s.secure}, {s.options.Plain, &s.plain}} {
		for _, addr := range into.addrs {
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
			if err != nil {
				return errors.Join(fmt.Errorf("simulator: listen: %w", err), closeAll(s.secure), closeAll(s.plain))
			}
			*into.listeners = append(*into.listeners, l)
		}
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.queue = newConnQueue()
	s.http = s.newServer(ctx)
	s.running.Go(func() {
		// Serve ends when the queue is closed; there is nothing else that it can say.
		_ = s.http.Serve(s.queue)
	})
	for _, l := range s.secure {
		s.running.Go(func() { s.accept(ctx, l, s.tlsConfig()) })
	}
	for _, l := range s.plain {
		s.running.Go(func() { s.accept(ctx, l, nil) })
	}
	return nil
}

func (s *Simulator) newServer(ctx context.Context) *http.Server {
	server := &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConn,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelDebug),
		// Only the list of protocols counts here: the handshake is done in accept.
		TLSConfig: &tls.Config{NextProtos: s.options.Protocols},
	}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(slices.Contains(s.options.Protocols, "h2"))
	server.Protocols.SetUnencryptedHTTP2(true)
	return server
}

func (s *Simulator) tlsConfig() *tls.Config {
	pick := s.options.Certificate
	if pick == nil {
		pick = s.ca.Leaf
	}
	return &tls.Config{
		NextProtos: s.options.Protocols,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name := hello.ServerName
			if name == "" { // RFC 6066 section 3: IP addresses are not sent
				if at, err := netip.ParseAddrPort(hello.Conn.LocalAddr().String()); err == nil {
					name = at.Addr().Unmap().String()
				}
			}
			return pick(name)
		},
	}
}

// Close ends every connection and waits for everything that Start began. It is
// safe to call more than once and after a failed Start.
func (s *Simulator) Close() error {
	if s.cancel == nil {
		s.stopGRPC()
		return nil
	}
	// Their errors say only that somebody else closed them first.
	_ = closeAll(s.secure)
	_ = closeAll(s.plain)
	s.queue.Close()
	// Before the handlers hear of it: an answer that is cut short must not end in order.
	s.conns.close()
	s.cancel()
	err := s.http.Close()
	s.running.Wait()
	s.conns.wait()
	s.stopGRPC()
	return err
}

func closeAll(listeners []net.Listener) error {
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// CA is the PEM of the certificate that clients have to trust.
func (s *Simulator) CA() []byte { return s.ca.PEM() }

// Authority is what signs the certificates.
func (s *Simulator) Authority() *Authority { return s.ca }

// Journal is what was seen so far.
func (s *Simulator) Journal() *Journal { return s.journal }

// Addr is where the first TLS listener is; only valid after Start.
func (s *Simulator) Addr() netip.AddrPort { return addrOf(s.secure) }

// PlainAddr is where the first listener without TLS is; only valid after Start.
func (s *Simulator) PlainAddr() netip.AddrPort { return addrOf(s.plain) }

func addrOf(listeners []net.Listener) netip.AddrPort {
	if len(listeners) == 0 {
		return netip.AddrPort{}
	}
	at, ok := listeners[0].Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return at.AddrPort()
}
