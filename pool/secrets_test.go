package pool_test

import (
	"io"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// readMemory reads this process's memory as a debugger would.
func readMemory(t *testing.T, at uintptr, n int) string {
	t.Helper()
	f, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	text := make([]byte, n)
	if _, err := io.NewSectionReader(f, int64(at), int64(n)).Read(text); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A key that was replaced stays for the requests that are under way with it, and is
// overwritten when the last of them has ended.
func TestAReplacedKeyIsOverwrittenOnceNoRequestHasIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a")
	const field = "Bearer sk-a"
	l := b.acquire(t, r)
	value := l.Inject[0].Value
	at := uintptr(unsafe.Pointer(&value[0]))
	secret := vault.NewSecret([]byte("sk-other"))
	if _, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{Secret: &secret}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runtime.GC()
	}
	if string(value) != field || readMemory(t, at, len(field)) != field {
		t.Fatal("the key was overwritten under a request")
	}
	runtime.KeepAlive(value)
	l, value = b.acquire(t, r), nil
	for end := time.Now().Add(20 * time.Second); readMemory(t, at, len(field)) == field; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the key is still in memory")
		}
		runtime.GC()
	}
	if got := string(l.Inject[0].Value); got != "Bearer sk-other" {
		t.Errorf("a request carries %q", got)
	}
}
