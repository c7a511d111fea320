package telegram

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"": nil, "  ": nil, "a  b\tc\n": {"a", "b", "c"}, `header="X-Key: {token}" b`: {"header=X-Key: {token}", "b"},
		"“a b” c": {"a b", "c"}, `""`: {""}, `a""b`: {"ab"},
	} {
		if got, err := words(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	if _, err := words(`a "b`); err == nil {
		t.Error("an open quotation mark")
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, name, rest string
		ours             bool
	}{
		{"/rotate p", "rotate", " p", true},
		{"/Rotate@sluicebot p q", "rotate", " p q", true},
		{"/rotate@other p", "", "", false},
		{"/rotate\np", "rotate", "\np", true},
		{"/", "", "", true},
		{"rotate p", "", "", false},
		{"", "", "", false},
	} {
		if name, rest, ours := command(c.text, "SluiceBot"); name != c.name || rest != c.rest || ours != c.ours {
			t.Errorf("%q: %q, %q, %v", c.text, name, rest, ours)
		}
	}
}

func TestSecretForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"sk-ant-api03-abcdefghijkl": true, "my key is sk-abcdefghijkl.": true, "ghp_0123456789abcdefghij": true,
		"AIzaSyA0123456789abcdefghij": true, "eyJhbGciOi0.eyJzdWIiOi0.x": true, `{"refresh_token": "abcdefgh"}`: true,
		"api_key=abcdefgh1": true, "Authorization: Bearer abcdefghijkl": true, "-----BEGIN RSA PRIVATE KEY-----": true,
		"/pool_create p members=sk-1,sk-2 provider=openai": false, "/rotate task-force": false,
		`/pool_create p header="Authorization: Bearer {token}"`: false, "/cred_update a token_url=https://auth.example/token": false,
		"the token is gone": false, "/status p": false,
	} {
		if carriesSecret(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

func TestPieces(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(strings.Repeat("é", 40)+"\n", 60)
	for name, text := range map[string]string{
		"short": "x", "lines": long, "no lines": strings.Repeat("é", 2*maxPiece), "endless": strings.Repeat(long, 50), "empty": "",
	} {
		pieces := reply{text: text}.pieces()
		if len(pieces) == 0 || len(pieces) > maxPieces {
			t.Errorf("%s: %d pieces", name, len(pieces))
		}
		for _, p := range pieces {
			if len(p) > 4096 || !utf8.ValidString(p) {
				t.Errorf("%s: a piece of %d bytes, valid %v", name, len(p), utf8.ValidString(p))
			}
		}
	}
	if got := strings.Join(reply{text: long}.pieces(), "\n"); got != strings.TrimSpace(long) {
		t.Error("something is lost between pieces")
	}
}

func FuzzWords(f *testing.F) {
	for _, seed := range []string{"a b", `a"b c"`, "“x", "members=a,b provider=openai", "/x@y z", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := words(text)
		if err == nil && len(strings.Join(got, "")) > len(text)*3 {
			t.Errorf("%q: %q", text, got)
		}
		name, rest, ours := command(text, "b")
		if ours && (strings.ContainsAny(name, " \n@") || len(name)+len(rest) > len(text)*3) {
			t.Errorf("%q: %q, %q", text, name, rest)
		}
		if _, err := settings(got, "a", "b"); err == nil && len(got) > 2 {
			t.Errorf("%q: more settings than there are keys", text)
		}
	})
}
