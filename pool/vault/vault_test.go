package vault

import (
	"encoding/json"
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
