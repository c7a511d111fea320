// Package ca is the certificate authority that agents are made to trust, and the
// leaf certificates that it signs for bound hosts.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // a key identifier, not a signature (RFC 5280 section 4.2.1.2)
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"golang.org/x/sync/singleflight"
)

const (
	caLife = 10 * 365 * 24 * time.Hour
	// caSpare is how long before its end a CA gets a successor, so that agents that
	// start meanwhile trust both.
	caSpare = 30 * 24 * time.Hour
	// cachedLeaves bounds the memory for leaves: about 2 KiB each.
	cachedLeaves = 10000
)

// unfinished begins the name of a file that is being written.
const unfinished = ".new-"

// ErrNotPermitted is returned by [Authority.Leaf] for a host that no CA may sign for.
var ErrNotPermitted = errors.New("no CA is permitted to sign for this host")

// Authority signs for bound hosts and no others: each of its CA certificates
// carries critical name constraints (RFC 5280 section 4.2.1.10), so that a stolen
// key is of no use for any other host. A permitted name permits its subdomains
// too; that is how the constraint is defined. It may be used concurrently.
type Authority struct {
	dir  string
	now  func() time.Time
	key  *ecdsa.PrivateKey // of all leaves of this process
	once singleflight.Group

	leaves *ristretto.Cache[string, *tls.Certificate]

	mu      sync.RWMutex
	cas     []*authority            // oldest first
	bundle  []byte                  // their certificates, as PEM; what is in it never changes
	domains map[string][]*authority // those that permit a name and its subdomains, oldest first
}

// authority is one CA certificate and its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	age  int // place among all, the oldest first
}

// add takes a CA in. The caller holds mu, or nobody else knows a yet.
func (a *Authority) add(c *authority) {
	c.age = len(a.cas)
	a.cas = append(a.cas, c)
	a.bundle = append(a.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
	for _, d := range c.cert.PermittedDNSDomains {
		a.domains[d] = append(a.domains[d], c)
	}
}

// Open reads the CAs in a directory, which it makes if it is not there, and closes
// both to other users. One process at a time may have it open.
func Open(dir string, now func() time.Time) (*Authority, error) {
	return openSized(dir, now, cachedLeaves)
}

func openSized(dir string, now func() time.Time, cached int64) (*Authority, error) {
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("make the CA's directory: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	a := &Authority{dir: dir, now: now, key: key, domains: make(map[string][]*authority)}
	if err := a.loadAll(); err != nil {
		return nil, err
	}
	a.leaves, err = ristretto.NewCache(&ristretto.Config[string, *tls.Certificate]{
		NumCounters: cached * 10, MaxCost: cached, BufferItems: 64, IgnoreInternalCost: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make the leaf cache: %w", err)
	}
	return a, nil
}

// Close ends the leaf cache.
func (a *Authority) Close() { a.leaves.Close() }

func (a *Authority) loadAll() error {
	entries, err := os.ReadDir(a.dir) // sorted by name
	if err != nil {
		return fmt.Errorf("read the CA's directory: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(a.dir, entry.Name())
		switch {
		case strings.HasPrefix(entry.Name(), unfinished):
			// A write that a crash cut short: nobody has trusted it.
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("clear away an unfinished CA: %w", err)
			}
		case filepath.Ext(path) == ".pem":
			c, err := load(path)
			if err != nil {
				return fmt.Errorf("%s: %s: restore it from a backup, or move it away: its hosts get a new CA, which agents that run do not trust yet", path, err)
			}
			if err := os.Chmod(path, 0o600); err != nil {
				return fmt.Errorf("close the CA's key to others: %w", err)
			}
			a.add(c)
		}
	}
	return nil
}

func load(path string) (*authority, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &authority{}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			c.cert, err = x509.ParseCertificate(block.Bytes)
		case "EC PRIVATE KEY":
			c.key, err = x509.ParseECPrivateKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("damaged: %s", err)
		}
	}
	if c.cert == nil || c.key == nil || !c.key.PublicKey.Equal(c.cert.PublicKey) {
		return nil, errors.New("damaged: it must hold a CA certificate and its key")
	}
	if err := c.cert.CheckSignature(c.cert.SignatureAlgorithm, c.cert.RawTBSCertificate, c.cert.Signature); err != nil {
		return nil, fmt.Errorf("damaged: %s", err)
	}
	return c, nil
}

// Permit makes sure that every host can be signed for: those that no CA covers yet
// get a further one, durable before this returns. What was trusted before stays so.
func (a *Authority) Permit(hosts []string) (changed bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var missing []string
	now := a.now()
	for _, h := range hosts {
		if a.covering(h, now, now.Add(caSpare)) == nil {
			missing = append(missing, h)
		}
	}
	if len(missing) == 0 {
		return false, nil
	}
	slices.Sort(missing)
	c, err := a.create(slices.Compact(missing))
	if err != nil {
		return false, err
	}
	a.add(c)
	return true, nil
}

// Early returns the CAs that are not valid yet: a clock that was ahead made them, or this
// one is behind.
func (a *Authority) Early() []*x509.Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var early []*x509.Certificate
	for _, c := range a.cas {
		if a.now().Before(c.cert.NotBefore) {
			early = append(early, c.cert)
		}
	}
	return early
}

// covering is the oldest CA that may sign for host and is valid from one instant to another,
// or nil: the oldest is the one that agents which run already are likeliest to trust.
func (a *Authority) covering(host string, from, until time.Time) *authority {
	var oldest *authority
	for domain, more := host, true; more; _, domain, more = strings.Cut(domain, ".") {
		for _, c := range a.domains[domain] {
			if !from.Before(c.cert.NotBefore) && !until.After(c.cert.NotAfter) && (oldest == nil || c.age < oldest.age) {
				oldest = c
			}
		}
	}
	return oldest
}

func (a *Authority) create(hosts []string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := a.now()
	everyIPv4 := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	everyIPv6 := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Clients find an issuer by its name: no two CAs may share one.
		Subject:                     pkix.Name{Organization: []string{"sluice"}, CommonName: "sluice CA " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(caLife),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		SubjectKeyId:                keyID(&key.PublicKey),
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         hosts,
		ExcludedIPRanges:            []*net.IPNet{everyIPv4, everyIPv6},
	}
	template.AuthorityKeyId = template.SubjectKeyId
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign the CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign the CA: %w", err)
	}
	c := &authority{cert: cert, key: key}
	if err := a.save(c); err != nil {
		return nil, fmt.Errorf("save the CA: %w", err)
	}
	return c, nil
}

// save writes certificate and key as one file, so that there is never one without the other.
func (a *Authority) save(c *authority) (err error) {
	der, err := x509.MarshalECPrivateKey(c.key)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(a.dir, unfinished) // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it is gone already if only the directory could not be synced
		}
	}()
	err = errors.Join(
		pem.Encode(f, &pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}),
		pem.Encode(f, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		f.Sync(), f.Close())
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%04d.pem", len(a.cas)+1)
	for n := len(a.cas) + 2; exists(filepath.Join(a.dir, name)); n++ {
		name = fmt.Sprintf("%04d.pem", n)
	}
	if err := os.Rename(f.Name(), filepath.Join(a.dir, name)); err != nil {
		return err
	}
	dir, err := os.Open(a.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Bundle returns all CA certificates as PEM: what an agent has to trust. It is
// empty while no host is bound, and not to be changed.
func (a *Authority) Bundle() []byte {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Clip(a.bundle)
}

func serialNumber() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and never short
	return new(big.Int).SetBytes(b), nil
}

func keyID(k *ecdsa.PublicKey) []byte {
	raw, err := k.Bytes()
	if err != nil {
		return nil // an invalid key, which is refused at signing
	}
	sum := sha1.Sum(raw) //nolint:gosec // see the import
	return sum[:]
}
