package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that only a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t testing.TB, dir string, now func() time.Time) *Authority {
	t.Helper()
	a, err := Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func permit(t testing.TB, a *Authority, want bool, hosts ...string) {
	t.Helper()
	if changed, err := a.Permit(hosts); changed != want || err != nil {
		t.Fatalf("permit %q: %v, %v; want %v", hosts, changed, err, want)
	}
}

// verify is crypto/x509's judgement of a host's leaf under a bundle.
func verify(a *Authority, bundle []byte, host string, now time.Time) error {
	leaf, err := a.Leaf(host)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return errors.New("the bundle holds no certificate")
	}
	_, err = leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now})
	return err
}

func TestAuthorityIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state", "ca")
	a := open(t, dir, time.Now)
	if len(a.Bundle()) != 0 {
		t.Fatal("a CA without a host to sign for")
	}
	permit(t, a, true, "b.example", "a.example", "a.example")
	permit(t, a, false, "a.example", "b.example", "sub.a.example")
	bundle := a.Bundle()
	if n := bytes.Count(bundle, []byte("BEGIN CERTIFICATE")); n != 1 || bytes.Contains(bundle, []byte("PRIVATE")) {
		t.Fatalf("the bundle:\n%s", bundle)
	}
	again := open(t, dir, time.Now)
	if !bytes.Equal(again.Bundle(), bundle) {
		t.Fatal("opened again, it is another CA")
	}
	permit(t, again, false, "a.example", "b.example")
	if err := verify(again, bundle, "b.example", time.Now()); err != nil {
		t.Fatal(err)
	}

	// A further host: what was trusted before stays so.
	permit(t, again, true, "c.example", "a.example")
	if !bytes.HasPrefix(again.Bundle(), bundle) || bytes.Count(again.Bundle(), []byte("BEGIN")) != 2 {
		t.Fatal("the first CA is gone or was changed")
	}
	if err := verify(again, bundle, "a.example", time.Now()); err != nil {
		t.Fatalf("an agent with the earlier bundle: %v", err)
	}
	if err := verify(again, bundle, "c.example", time.Now()); err == nil {
		t.Fatal("the first CA signed for a host that it does not permit")
	}
	if err := verify(again, again.Bundle(), "c.example", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Leaf("d.example"); !errors.Is(err, ErrNotPermitted) {
		t.Fatalf("a host that is not bound: %v", err)
	}

	err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		info, infoErr := d.Info()
		if err := errors.Join(err, infoErr); err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 || strings.HasPrefix(d.Name(), ".new") {
			return fmt.Errorf("%s: %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestBundleIsNotMadeAnew for each of those who ask: whoever lists the targets asks once a target, and there is a CA for
// each host that was bound by itself.
func TestBundleIsNotMadeAnew(t *testing.T) {
	a := open(t, t.TempDir(), time.Now)
	for i := range 20 {
		permit(t, a, true, fmt.Sprintf("%d.example", i))
	}
	before := a.Bundle()
	_ = append(before, "somebody's own"...) // is not to be in the way of the next CA
	if n := testing.AllocsPerRun(10, func() { _ = a.Bundle() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	permit(t, a, true, "one.more.example")
	after := a.Bundle()
	if n := bytes.Count(after, []byte("BEGIN")); n != 21 || !bytes.HasPrefix(after, before) || bytes.Count(before, []byte("BEGIN")) != 20 {
		t.Errorf("%d certificates", n)
	}
	if err := verify(a, after, "one.more.example", time.Now()); err != nil {
		t.Error(err)
	}
}

func TestDirectoryIsClosedToOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	permit(t, open(t, dir, time.Now), true, "a.example")
	if err := os.Chmod(filepath.Join(dir, "0001.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	_ = open(t, dir, time.Now)
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "0001.pem"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir, time.Now)
	permit(t, a, true, "a.example")
	permit(t, a, true, "b.example")
	first, second := filepath.Join(dir, "0001.pem"), filepath.Join(dir, "0002.pem")
	whole, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	key := bytes.Index(whole, []byte("-----BEGIN EC"))
	otherKey := bytes.Index(other, []byte("-----BEGIN EC"))
	flipped := bytes.Clone(whole)
	flipped[100] ^= 1
	for name, data := range map[string][]byte{
		"empty": {}, "half": whole[:len(whole)/2], "without a key": whole[:key], "without a certificate": whole[key:],
		"cut in the key": whole[:len(whole)-60], "another's key": append(bytes.Clone(whole[:key]), other[otherKey:]...),
		"zeros": make([]byte, len(whole)), "a flipped bit": flipped,
		"not DER": append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), whole[key:]...),
	} {
		if err := os.WriteFile(first, data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Open(dir, time.Now)
		if err == nil {
			b.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		if !strings.HasPrefix(err.Error(), first+": ") || !strings.Contains(err.Error(), "backup") || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := os.ReadFile(first); err != nil || !bytes.Equal(now, data) {
			t.Errorf("%s: the file was changed: %v", name, err)
		}
	}

	// As the error says: moved away, its hosts get a new CA and the other stays.
	if err := os.Rename(first, first+".damaged"); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, time.Now)
	permit(t, b, true, "a.example", "b.example")
	if now, err := os.ReadFile(second); err != nil || !bytes.Equal(now, other) {
		t.Fatalf("the other CA was written over: %v", err)
	}
	for _, host := range []string{"a.example", "b.example"} {
		if err := verify(b, b.Bundle(), host, time.Now()); err != nil {
			t.Error(err)
		}
	}
	bundle := b.Bundle()
	if again := open(t, dir, time.Now).Bundle(); len(again) != len(bundle) {
		t.Fatal("not everything was kept")
	}
}

// TestWriteCutShort leaves what a crash in the middle of a save leaves.
func TestWriteCutShort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	permit(t, open(t, dir, time.Now), true, "a.example")
	left := filepath.Join(dir, ".new-123")
	if err := os.WriteFile(left, []byte("-----BEGIN CERT"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := open(t, dir, time.Now)
	permit(t, a, false, "a.example")
	if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the remains of a write are kept: %v", err)
	}
}

// TestSaveThatFails changes nothing: no host is signed for by a CA that a restart would forget.
func TestSaveThatFails(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	a := open(t, dir, time.Now)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if changed, err := a.Permit([]string{"a.example"}); changed || err == nil {
		t.Fatalf("got %v, %v", changed, err)
	}
	if _, err := a.Leaf("a.example"); !errors.Is(err, ErrNotPermitted) || len(a.Bundle()) != 0 {
		t.Fatalf("got %v", err)
	}
}

// TestCAOfAFastClock: what a clock made that was ahead has a successor once the clock is right.
func TestCAOfAFastClock(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Now().Add(30 * 24 * time.Hour)}
	dir := t.TempDir()
	a := open(t, dir, c.Now)
	permit(t, a, true, "a.example")
	if early := a.Early(); len(early) != 0 {
		t.Errorf("%d CAs are not valid yet", len(early))
	}
	c.add(-30 * 24 * time.Hour)
	if early := a.Early(); len(early) != 1 {
		t.Errorf("%d CAs are not valid yet, want 1", len(early))
	}
	if _, err := a.Leaf("a.example"); err != nil {
		t.Errorf("before it is looked at: %v", err)
	}
	a = open(t, dir, c.Now)
	permit(t, a, true, "a.example")
	if err := verify(a, a.Bundle(), "a.example", c.Now()); err != nil {
		t.Error(err)
	}
	permit(t, a, false, "a.example")
}

func TestCARenewedNearItsEnd(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Now()}
	a := open(t, t.TempDir(), c.Now)
	permit(t, a, true, "a.example")
	c.add(caLife - 2*leafLife)
	permit(t, a, true, "a.example") // so that no leaf outlives its issuer
	if err := verify(a, a.Bundle(), "a.example", c.Now().Add(leafLife-time.Minute)); err != nil {
		t.Fatal(err)
	}
	permit(t, a, false, "a.example")
}
