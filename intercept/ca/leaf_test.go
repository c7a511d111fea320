package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLeaf(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir(), time.Now)
	long := strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + ".example"
	permit(t, a, true, "a.example", long)
	for _, host := range []string{"a.example", "sub.a.example", long} {
		c, err := a.Leaf(host)
		if err != nil {
			t.Fatal(err)
		}
		leaf := c.Leaf
		key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
		if !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s: key %T", host, leaf.PublicKey)
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 24*time.Hour {
			t.Errorf("%s: valid for %v", host, life)
		}
		if !slices.Equal(leaf.DNSNames, []string{host}) || len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs) != 0 {
			t.Errorf("%s: for %v", host, leaf.DNSNames)
		}
		if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
			t.Errorf("%s: CA %v, usage %v, %v", host, leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
		}
		if len(leaf.SubjectKeyId) == 0 || len(leaf.AuthorityKeyId) == 0 {
			t.Errorf("%s: no key identifiers", host)
		}
		if err := verify(a, a.Bundle(), host, time.Now()); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestLeafRenewedBeforeItEnds(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Now()}
	a := open(t, t.TempDir(), c.Now)
	permit(t, a, true, "a.example")
	first, err := a.Leaf("a.example")
	if err != nil {
		t.Fatal(err)
	}
	a.leaves.Wait()
	c.add(leafLife - leafSpare - time.Second)
	if kept, err := a.Leaf("a.example"); err != nil || kept != first {
		t.Fatalf("a leaf that has %v left was not kept: %v", leafSpare, err)
	}
	c.add(2 * time.Second)
	next, err := a.Leaf("a.example")
	if err != nil || next == first || !next.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Fatalf("not renewed: %v", err)
	}
	a.leaves.Wait()
	if again, err := a.Leaf("a.example"); err != nil || again != next {
		t.Fatalf("the renewed one was not kept: %v", err)
	}
}

// TestLeafAfterTheClockWasSetBack: agents go by the same clock.
func TestLeafAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Now()}
	a := open(t, t.TempDir(), c.Now)
	permit(t, a, true, "example")
	c.add(12 * time.Hour)
	if _, err := a.Leaf("a.example"); err != nil {
		t.Fatal(err)
	}
	for _, by := range []time.Duration{0, -30 * time.Minute, -8 * time.Hour} {
		c.add(by)
		leaf, err := a.Leaf("a.example")
		if err != nil || leaf.Leaf.NotBefore.After(c.Now()) {
			t.Errorf("set by %s: %v, valid from %s on", by, err, leaf.Leaf.NotBefore.Sub(c.Now()))
		}
	}
}

// TestLeafMintedOnce has many callers want a new host's leaf at once.
func TestLeafMintedOnce(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir(), time.Now)
	permit(t, a, true, "example")
	for round := range 20 {
		host := fmt.Sprintf("h%d.example", round)
		got := make([]*tls.Certificate, 50)
		var all sync.WaitGroup
		start := make(chan struct{})
		for i := range got {
			all.Go(func() {
				<-start
				got[i], _ = a.Leaf(host)
			})
		}
		close(start)
		all.Wait()
		for _, c := range got {
			if c == nil || c != got[0] {
				t.Fatalf("%s: two leaves", host)
			}
		}
	}
}

// TestLeafOfOldestCA: a later CA that covers a host as well does not sign for it,
// because agents that run already do not trust that CA.
func TestLeafOfOldestCA(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir(), time.Now)
	permit(t, a, true, "a.example")
	before := a.Bundle()
	permit(t, a, true, "example")
	if err := verify(a, before, "a.example", time.Now()); err != nil {
		t.Fatal(err)
	}
}

func TestLeafCacheIsBounded(t *testing.T) {
	t.Parallel()
	a, err := openSized(t.TempDir(), time.Now, 100)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	permit(t, a, true, "example")
	for i := range 400 {
		if _, err := a.Leaf(fmt.Sprintf("h%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	a.leaves.Wait()
	held := 0
	for i := range 400 {
		if _, ok := a.leaves.Get(fmt.Sprintf("h%d.example", i)); ok {
			held++
		}
	}
	if held == 0 || held > 100 {
		t.Fatalf("%d leaves are held, want 1 to 100", held)
	}
}

func BenchmarkLeaf(b *testing.B) {
	a := open(b, b.TempDir(), time.Now)
	if _, err := a.Permit([]string{"example"}); err != nil {
		b.Fatal(err)
	}
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.Leaf("a.example"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("minted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.mint("a.example"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
