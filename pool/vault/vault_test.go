package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRoundTripAndReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "identity")
	v, err := Open(path)
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
	if v, err = Open(path); err != nil {
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

func TestWrongIdentityIsToldAndTouchesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, err := Open(filepath.Join(dir, "one"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := Open(filepath.Join(dir, "two"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := one.Encrypt(NewSecret([]byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Decrypt(sealed); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), two.path) {
		t.Fatalf("got %v, want ErrIdentity naming the file", err)
	}
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(bad); err == nil || !strings.Contains(err.Error(), bad) {
		t.Fatalf("got %v, want an error naming the file", err)
	}
	if data, err := os.ReadFile(bad); err != nil || string(data) != "nonsense" {
		t.Fatalf("the damaged identity was replaced (%v)", err)
	}
}

func TestSecretCannotBePrinted(t *testing.T) {
	t.Parallel()
	s := NewSecret([]byte("canary-secret"))
	type holder struct {
		S Secret
		P *Secret
	}
	h := holder{s, &s}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "h", h)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "h", h)
	encoded, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	text := log.String() + string(encoded)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T%v"} {
		text += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, h)
	}
	for _, form := range []string{"canary", "63616e617279", "99 97 110"} {
		if strings.Contains(text, form) {
			t.Fatalf("printed: %s", text)
		}
	}
	s.Zero()
	if strings.Contains(string(s.Bytes()), "canary") {
		t.Fatal("not zeroed")
	}
}
