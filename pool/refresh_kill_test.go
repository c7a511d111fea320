package pool_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// What the process that is killed is told by: its state directory, and whom it trusts.
const (
	refreshDir = "SLUICE_TEST_REFRESH_DIR"
	refreshCA  = "SLUICE_TEST_REFRESH_CA"
)

// refreshInChild opens a store, says so, has the account refreshed, says so, and waits.
func refreshInChild(dir, ca string) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		return errors.New("no certificate")
	}
	db, err := store.Open(context.Background(), dir)
	if err != nil {
		return err
	}
	v, err := vault.Open(vault.Options{File: filepath.Join(dir, "identity")})
	if err != nil {
		return err
	}
	k, err := pool.NewKeeper(context.Background(), pool.Options{
		Store: db, Vault: v, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), HTTP: pool.TokenClient(roots),
	})
	if err != nil {
		return err
	}
	r, _ := k.Route("api.openai.com", 443, nil)
	l, err := k.Acquire(context.Background(), r, nil)
	if err != nil {
		return err
	}
	fmt.Println("open")
	if _, ok := k.Refresh(context.Background(), r, l); !ok {
		return errors.New("not refreshed")
	}
	fmt.Println("refreshed")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// TestNoAccountIsLostToAKill kills a process at each step of a refresh. Afterwards the
// account can be refreshed, by an endpoint that lets a token be redeemed again shortly
// after, and by a strict one unless it had spent the token without its answer having been
// stored: that cannot be helped.
func TestNoAccountIsLostToAKill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		step         string
		grace, lives bool
	}{
		{"before the endpoint is asked", false, true},
		{"before the endpoint is asked", true, true},
		{"before the answer", true, true},
		{"before the answer", false, false},
		{"when the answer was sent", true, true},
		{"when the new tokens are stored", false, true},
		{"when the new tokens are stored", true, true},
	} {
		t.Run(fmt.Sprintf("%s, grace %t", c.step, c.grace), func(t *testing.T) {
			t.Parallel()
			s := newTokenServer(t)
			b := newBench(t, func(o *pool.Options) { o.HTTP, o.Now = s.Client(), nil })
			b.mu.Lock()
			b.now = time.Now()
			b.mu.Unlock()
			b.account(t, s, "a", time.Hour)
			if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"a"}, Provider: "openai"}); err != nil {
				t.Fatal(err)
			}
			b.stop()
			s.set(func(s *tokenServer) { s.grace = c.grace })
			kill(t, b.dir, s, c.step)
			s.set(func(s *tokenServer) { s.before = nil })
			b.start(t)
			r, _ := b.Route("api.openai.com", 443, nil)
			if _, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); ok != c.lives {
				t.Errorf("the account lives: %t, want %t", ok, c.lives)
			}
		})
	}
}

// kill lets a process refresh the account in dir and kills it at a step.
func kill(t *testing.T, dir string, s *tokenServer, step string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	child.Env = append(os.Environ(), refreshDir+"="+dir, refreshCA+"="+string(ca), "GORACE=atexit_sleep_ms=0")
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started, spent := make(chan struct{}), make(chan struct{})
	dies := func() {
		<-started
		_ = child.Process.Signal(syscall.SIGKILL)
	}
	switch step {
	case "before the answer":
		s.set(func(s *tokenServer) { s.before = dies })
	case "when the answer was sent":
		s.set(func(s *tokenServer) { s.before = func() { close(spent); s.before = nil } })
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	lines := bufio.NewScanner(out)
	await := func(word string) {
		if !lines.Scan() || strings.TrimSpace(lines.Text()) != word {
			t.Errorf("the process said %q, want %q", lines.Text(), word)
		}
	}
	if step == "before the endpoint is asked" {
		s.mu.Lock() // it hears nothing
		await("open")
		dies()
		_ = child.Wait()
		s.good, s.previous = "rt-0", "" // nor has it
		defer s.mu.Unlock()
		return
	}
	await("open")
	switch step {
	case "when the answer was sent":
		<-spent
		dies()
	case "when the new tokens are stored":
		await("refreshed")
		dies()
	}
	_ = child.Wait()
}
