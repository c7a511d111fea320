package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-proxy/sluice/intercept/netns"
)

// issuer is a certificate that signs others.
type issuer struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	chain [][]byte // up to the root, which is not in it
}

// issue signs a certificate; by itself if there is no issuer.
func (i *issuer) issue(t *testing.T, template x509.Certificate) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	template.BasicConstraintsValid = true
	parent, signer, chain := &template, key, [][]byte(nil)
	if i != nil {
		parent, signer, chain = i.cert, i.key, i.chain
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert: cert, key: key, chain: append([][]byte{der}, chain...)}
}

func newIssuer(t *testing.T) *issuer {
	root := (*issuer)(nil).issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "root of the test"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	})
	root.chain = nil
	return root
}

// under is a CA below this one.
func (i *issuer) under(t *testing.T, template x509.Certificate) *issuer {
	template.Subject.CommonName, template.IsCA, template.KeyUsage = "CA of the test", true, x509.KeyUsageCertSign
	return i.issue(t, template)
}

// server is a server's certificate.
func (i *issuer) server(t *testing.T, template x509.Certificate, names ...string) *tls.Certificate {
	if template.ExtKeyUsage == nil {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	template.DNSNames, template.KeyUsage = names, x509.KeyUsageDigitalSignature
	leaf := i.issue(t, template)
	return &tls.Certificate{Certificate: leaf.chain, PrivateKey: leaf.key}
}

func (i *issuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw}))
}

// witness is an origin that writes down every byte that it gets: as it came where there
// is no TLS, decrypted where there is, and the fields of HTTP/2 as text.
type witness struct {
	http http.Server
	h1   chan net.Conn
	end  sync.WaitGroup
	done chan struct{}
	once sync.Once

	listeners []net.Listener

	mu    sync.Mutex
	shown *tls.Certificate
	heard map[int]*bytes.Buffer // by connection
	conns []net.Conn
	asked int
}

// newWitness listens on these ports of an address in the namespace; on 80 without TLS.
func newWitness(t *testing.T, namespace, addr string, shown *tls.Certificate, ech []tls.EncryptedClientHelloKey, ports ...int) *witness {
	t.Helper()
	ns, err := netns.Open(namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	w := &witness{shown: shown, h1: make(chan net.Conn), done: make(chan struct{}), heard: make(map[int]*bytes.Buffer)}
	w.http.Handler = http.HandlerFunc(w.serve)
	config := &tls.Config{
		NextProtos: []string{"h2", "http/1.1"}, EncryptedClientHelloKeys: ech,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.shown, nil
		},
	}
	for _, port := range ports {
		l, err := ns.Listen(t.Context(), "tcp4", net.JoinHostPort(addr, fmt.Sprint(port)))
		if err != nil {
			t.Fatal(err)
		}
		w.listeners = append(w.listeners, l)
		w.end.Go(func() { w.accept(l, config, port != 80) })
	}
	w.end.Go(func() { _ = w.http.Serve(w) })
	t.Cleanup(w.stop)
	return w
}

// stop returns when all that came has been written down, and nothing more can.
func (w *witness) stop() {
	w.once.Do(func() {
		for _, l := range w.listeners {
			l.Close()
		}
		close(w.done)
		w.http.Close()
		w.mu.Lock()
		for _, c := range w.conns {
			c.Close()
		}
		w.mu.Unlock()
	})
	w.end.Wait()
}

// Accept, Close and Addr make it the listener of its own server.
func (w *witness) Accept() (net.Conn, error) {
	select {
	case c := <-w.h1:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (*witness) Close() error { return nil }

// Addr implements [net.Listener].
func (*witness) Addr() net.Addr { return &net.TCPAddr{} }

func (w *witness) accept(l net.Listener, config *tls.Config, secure bool) {
	for {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		n := len(w.conns)
		w.conns = append(w.conns, raw)
		w.heard[n] = new(bytes.Buffer)
		w.mu.Unlock()
		w.end.Go(func() {
			c := net.Conn(raw)
			over := tls.Server(heardConn{raw, w, n}, config)
			if secure {
				if err := over.Handshake(); err != nil {
					raw.Close()
					return
				}
				c = over
			}
			c = heardConn{c, w, n}
			if over.ConnectionState().NegotiatedProtocol == "h2" {
				ctx := context.WithValue(context.Background(), heardKey{}, n)
				//lint:ignore SA1019 http.Server takes a listener, and here is one connection.
				new(http2.Server).ServeConn(c, &http2.ServeConnOpts{Context: ctx, Handler: http.HandlerFunc(w.serve)})
				return
			}
			select {
			case w.h1 <- c:
			case <-w.done:
				raw.Close()
			}
		})
	}
}

// heardConn is a connection whose bytes are written down.
type heardConn struct {
	net.Conn
	w *witness
	n int
}

// Read implements [net.Conn].
func (c heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.w.note(c.n, p[:n])
	return n, err
}

type heardKey struct{}

func (w *witness) note(conn int, p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard[conn].Write(p)
}

// serve answers; what HTTP/2 had compressed is written down here.
func (w *witness) serve(out http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked++
	w.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if conn, h2 := r.Context().Value(heardKey{}).(int); h2 {
		var text bytes.Buffer
		fmt.Fprintf(&text, "\n%s %s\n%s\n", r.Method, r.RequestURI, r.Host)
		_ = r.Header.Write(&text)
		w.note(conn, text.Bytes())
	}
	if err != nil {
		return
	}
	switch r.URL.Path {
	case "/redirect":
		http.Redirect(out, r, "https://unbound.example/stolen?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
	case "/echo":
		_ = r.Header.Write(out)
	case "/upgrade":
		if c, _, err := http.NewResponseController(out).Hijack(); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(c, c)
			c.Close()
		}
	default:
		fmt.Fprintf(out, "%s was here with %d bytes", r.Host, len(body))
	}
}

// show replaces the certificate.
func (w *witness) show(c *tls.Certificate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown = c
}

// requests are how many were answered, or are.
func (w *witness) requests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// texts are all that was heard on each connection.
func (w *witness) texts() map[int]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[int]string, len(w.heard))
	for n, b := range w.heard {
		all[n] = b.String()
	}
	return all
}

func (w *witness) text() (all string) {
	for _, text := range w.texts() {
		all += text
	}
	return all
}

// secretsIn are the credentials in a text, as they are or in base64, each as often as it
// stands there.
func secretsIn(text string) (found []string) {
	for _, secret := range exfilSecrets {
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
			for range strings.Count(text, form) {
				found = append(found, secret)
			}
		}
	}
	return found
}

// newECH makes a key for encrypted client hellos and the configuration that goes with it
// (RFC 9849 section 4); public is the name on the outside.
func newECH(t *testing.T, public string) (tls.EncryptedClientHelloKey, []byte) {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	contents := []byte{1, 0, 0x20} // identifier, DHKEM(X25519, HKDF-SHA256)
	contents = append(binary.BigEndian.AppendUint16(contents, 32), key.PublicKey().Bytes()...)
	contents = append(contents, 0, 4, 0, 1, 0, 1, 32) // HKDF-SHA256, AES-128-GCM; longest name
	contents = append(append(contents, byte(len(public))), public...)
	contents = append(contents, 0, 0)
	config := binary.BigEndian.AppendUint16([]byte{0xfe, 0x0d}, uint16(len(contents)))
	config = append(config, contents...)
	list := append(binary.BigEndian.AppendUint16(nil, uint16(len(config))), config...)
	return tls.EncryptedClientHelloKey{Config: config, PrivateKey: key.Bytes()}, list
}
