package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"
)

func TestRoundTripAndReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "identity")
	v, err := Open(Options{File: path})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := v.Encrypt(NewSecret([]byte("canary-secret")))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(sealed), "canary") {
		t.Fatal("not encrypted")
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("identity has mode %v (%v)", st.Mode(), err)
	}
	if v, err = Open(Options{File: path}); err != nil {
		t.Fatal(err)
	}
	s, err := v.Decrypt(sealed)
	if err != nil || string(s.Bytes()) != "canary-secret" {
		t.Fatalf("got %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v %v", entries, err)
	}
}

func TestSecretCannotBePrinted(t *testing.T) {
	t.Parallel()
	s := NewSecret([]byte("canary-secret"))
	type holder struct {
		S      Secret
		P      *Secret
		hidden Secret // fmt reads it without asking it
		M      map[string]Secret
		L      []Secret
	}
	h := holder{s, &s, s, map[string]Secret{"k": s}, []Secret{s}}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "h", h)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "h", h)
	encoded, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	text := log.String() + string(encoded)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "% x", "%X", "%d", "%o", "%b", "%c", "%U", "%p", "%t", "%T%v"} {
		text += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, &s) + fmt.Sprintf(verb, h) + fmt.Sprintf(verb, &h)
	}
	text += fmt.Sprint(s, h) + fmt.Sprint(errors.Join(fmt.Errorf("%w %v", os.ErrClosed, h)))
	for _, form := range []string{"canary", "63616e617279", "63 61 6e", "99 97 110", "0x63, 0x61", "143 141 156", "U+0063", "Y2FuYXJ5"} {
		if strings.Contains(text, form) {
			t.Fatalf("printed: %s", text)
		}
	}
	s.Zero()
	if strings.Contains(string(s.Bytes()), "canary") {
		t.Fatal("not zeroed")
	}
}

// memory reads this process's memory as a debugger would.
func memory(t *testing.T, at uintptr, n int) string {
	t.Helper()
	f, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	text := make([]byte, n)
	if _, err := f.ReadAt(text, int64(at)); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// collect has the collector run until done, or fails.
func collect(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what nobody can reach any more is still there")
		}
		runtime.GC()
	}
}

// What was replaced is overwritten, but not under the hands of who still uses it.
func TestKeptSecretsAreOverwrittenOnceUnused(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"x1", "canary-secret", strings.Repeat("canary", 2000)} {
		given := []byte(secret)
		kept := Keep(given)
		if strings.Trim(string(given), "\x00") != "" {
			t.Fatalf("what was given of %d bytes is still there", len(secret))
		}
		part := kept[len(kept)-1:]
		at := uintptr(unsafe.Pointer(&kept[0]))
		for range 3 {
			runtime.GC()
		}
		if string(kept) != secret || memory(t, at, len(secret)) != secret {
			t.Fatalf("%d bytes were overwritten in use", len(secret))
		}
		kept = nil
		for range 3 {
			runtime.GC()
		}
		if part[0] != secret[len(secret)-1] {
			t.Fatalf("%d bytes were overwritten while a part is in use", len(secret))
		}
		part = nil
		collect(t, func() bool { return memory(t, at, len(secret)) != secret })
	}
	if empty := Keep(nil); len(empty) != 0 {
		t.Fatal("nothing became something")
	}
}
