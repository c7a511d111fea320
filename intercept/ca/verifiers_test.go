package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// offer is a chain and the host that a client asks for when it is shown it.
type offer struct {
	chain [][]byte
	host  string
	good  bool
}

// forge signs whatever it is told with a CA's key, as a thief of the key would.
func forge(t *testing.T, by *authority, change func(*x509.Certificate)) (der []byte, own *authority) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "forged"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(20 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, SubjectKeyId: keyID(&key.PublicKey),
	}
	change(template)
	der, err = x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return der, &authority{cert: cert, key: key}
}

func offers(t *testing.T, a *Authority) (map[string]offer, map[string]*ecdsa.PrivateKey) {
	t.Helper()
	out, keys := make(map[string]offer), make(map[string]*ecdsa.PrivateKey)
	for name, host := range map[string]string{"bound": "a.example", "bound later": "b.example", "below a bound one": "x.a.example"} {
		c, err := a.Leaf(host)
		if err != nil {
			t.Fatal(err)
		}
		out[name], keys[name] = offer{c.Certificate, host, true}, a.key
	}
	first := a.cas[0]
	for name, f := range map[string]struct {
		host   string
		change func(*x509.Certificate)
	}{
		"another host":        {"other.example", func(c *x509.Certificate) { c.DNSNames = []string{"other.example"} }},
		"of another CA":       {"b.example", func(c *x509.Certificate) { c.DNSNames = []string{"b.example"} }},
		"the domain above":    {"example", func(c *x509.Certificate) { c.DNSNames = []string{"example"} }},
		"a bound and another": {"a.example", func(c *x509.Certificate) { c.DNSNames = []string{"a.example", "other.example"} }},
		"an IPv4 address":     {"127.0.0.1", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }},
		"a bound and an address": {"a.example", func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = []string{"a.example"}, []net.IP{net.IPv6loopback}
		}},
	} {
		der, own := forge(t, first, f.change)
		out[name], keys[name] = offer{[][]byte{der}, f.host, false}, own.key
	}
	sub, subCA := forge(t, first, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.Subject.CommonName = true, x509.KeyUsageCertSign, nil, "a CA below"
	})
	der, own := forge(t, subCA, func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} })
	out["a CA below"], keys["a CA below"] = offer{[][]byte{der, sub}, "a.example", false}, own.key
	return out, keys
}

// serve answers handshakes, and an HTTP request, with a chain.
func serve(t *testing.T, chain [][]byte, key *ecdsa.PrivateKey) (port string) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			s := tls.Server(c, config)
			if _, err := s.Read(make([]byte, 4096)); err == nil {
				_, _ = s.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"))
			}
			_ = s.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

const (
	inPython = `import http.client, socket, ssl, sys
bundle, host, port = sys.argv[1:]
ctx = ssl.create_default_context(cafile=bundle)
s = ctx.wrap_socket(socket.create_connection(("127.0.0.1", int(port)), 15), server_hostname=host)
s.sendall(b"GET / HTTP/1.0\r\n\r\n")
assert s.recv(100).startswith(b"HTTP/1.1 200")`
	inNode = `const [bundle, host, port] = process.argv.slice(1);
require("https").get({host, port, servername: require("net").isIP(host) ? "" : host, ca: require("fs").readFileSync(bundle),
  lookup: (n, o, cb) => o.all ? cb(null, [{address: "127.0.0.1", family: 4}]) : cb(null, "127.0.0.1", 4)},
  r => { r.resume(); process.exitCode = r.statusCode == 200 ? 0 : 2 }).on("error", e => { console.error(e.code + " " + e.message); process.exitCode = 1 })`
)

// commands are the verifiers: each succeeds if it accepts what a host is shown with.
func commands(bundle, chain, host, port string) map[string][]string {
	check := "-verify_hostname"
	if net.ParseIP(host) != nil {
		check = "-verify_ip"
	}
	return map[string][]string{
		"openssl": {"verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", bundle, "-untrusted", chain, check, host, chain},
		"curl":    {"-sS", "-m", "15", "--noproxy", "*", "--cacert", bundle, "--resolve", host + ":" + port + ":127.0.0.1", "https://" + host + ":" + port + "/"},
		"python3": {"-c", inPython, bundle, host, port},
		"node":    {"-e", inNode, bundle, host, port},
	}
}

// reasons are what verifiers say of a certificate that they do not believe: a
// refusal for any other reason would prove nothing.
var reasons = []string{"permitted subtree", "excluded subtree", "path length", "unable to get local issuer", "self-signed certificate in certificate chain"}

// TestVerifiers shows real verifiers what the CA signs and what its thief could.
func TestVerifiers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, filepath.Join(dir, "ca"), time.Now)
	permit(t, a, true, "a.example")
	permit(t, a, true, "b.example")
	bundle := filepath.Join(dir, "bundle.pem")
	if err := os.WriteFile(bundle, a.Bundle(), 0o600); err != nil {
		t.Fatal(err)
	}
	all, keys := offers(t, a)
	for name, o := range all {
		chain := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".pem")
		var data []byte
		for _, der := range o.chain {
			data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if err := os.WriteFile(chain, data, 0o600); err != nil {
			t.Fatal(err)
		}
		port := serve(t, o.chain, keys[name])
		t.Run("go/"+name, func(t *testing.T) {
			t.Parallel()
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(a.Bundle())
			c, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{RootCAs: roots, ServerName: o.host})
			if err == nil {
				_ = c.Close()
			}
			if (err == nil) != o.good {
				t.Fatalf("got %v", err)
			}
		})
		for verifier, args := range commands(bundle, chain, o.host, port) {
			t.Run(verifier+"/"+name, func(t *testing.T) {
				t.Parallel()
				ask(t, o, verifier, args)
			})
		}
	}
}

func ask(t *testing.T, o offer, verifier string, args []string) {
	t.Helper()
	path, err := exec.LookPath(verifier)
	if _, bad := os.Stat("/usr/bin/" + verifier); bad == nil {
		path, err = "/usr/bin/"+verifier, nil // not a wrapper that needs an environment
	}
	if err != nil {
		if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
			t.Fatalf("%v: scripts/deps.sh installs it", err)
		}
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent"} // no proxy, no other roots
	out, err := cmd.CombinedOutput()
	if (err == nil) != o.good {
		t.Fatalf("%v: %s", err, out)
	}
	if o.good {
		return
	}
	for _, r := range reasons {
		if strings.Contains(strings.ToLower(string(out)), r) {
			return
		}
	}
	t.Fatalf("refused for another reason: %s", out)
}
