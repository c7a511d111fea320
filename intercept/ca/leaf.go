package ca

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"time"
)

const (
	// leafLife is short because a leaf cannot be revoked; backdate forgives an
	// agent's clock that is behind.
	leafLife = 23 * time.Hour
	backdate = time.Hour
	// leafSpare is how long before its end a leaf is not used any more.
	leafSpare = 4 * time.Hour
)

// Leaf returns a certificate for a host, from memory if it can. Of many callers
// for one new host, one mints. Error: [ErrNotPermitted].
func (a *Authority) Leaf(host string) (*tls.Certificate, error) {
	if leaf, ok := a.cached(host); ok {
		return leaf, nil
	}
	v, err, _ := a.once.Do(host, func() (any, error) {
		if leaf, ok := a.cached(host); ok { // another caller has just been here
			return leaf, nil
		}
		leaf, err := a.mint(host)
		if err != nil {
			return nil, err
		}
		a.leaves.SetWithTTL(host, leaf, 1, leafLife-leafSpare)
		a.leaves.Wait() // the cache takes it in later, and the next caller must find it
		return leaf, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*tls.Certificate), nil
}

func (a *Authority) cached(host string) (*tls.Certificate, bool) {
	leaf, ok := a.leaves.Get(host)
	if !ok {
		return nil, false
	}
	now := a.now()
	// Made by a clock that was fast it is not valid yet, now that the clock is right.
	return leaf, !now.Before(leaf.Leaf.NotBefore) && now.Before(leaf.Leaf.NotAfter.Add(-leafSpare))
}

func (a *Authority) mint(host string) (*tls.Certificate, error) {
	now := a.now()
	until := now.Add(leafLife) // no leaf outlives its issuer
	a.mu.RLock()
	issuer := a.covering(host, now, until)
	if issuer == nil {
		issuer = a.covering(host, now.Add(caLife), until) // one that is not valid yet: not every client looks
	}
	a.mu.RUnlock()
	if issuer == nil {
		return nil, fmt.Errorf("%s: %w", host, ErrNotPermitted)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The common name is for people and has 64 characters at most; clients look at the SAN.
		Subject:               pkix.Name{Organization: []string{"sluice"}, CommonName: host[:min(len(host), 64)]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{host},
		SubjectKeyId:          keyID(&a.key.PublicKey),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.cert, &a.key.PublicKey, issuer.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key, Leaf: leaf}, nil
}
