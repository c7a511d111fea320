package pool

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzAccountOf holds that the account in a token goes into a request as it is, or not at
// all if it is not the value of one field (RFC 9110 section 5.5), whatever else is in there.
func FuzzAccountOf(f *testing.F) {
	f.Add([]byte(`eyJhbGciOiJub25lIn0.eyJzcGFjZSI6eyJuYW1lIjoiYSJ9fQ.`), "acc-1", "x", false)
	f.Add([]byte(`a.bnVsbA.c`), "a\r\nAuthorization: b", "name", true)
	f.Add([]byte(`..`), "\x00", "space", false)
	f.Add([]byte(`a.eyJzcGFjZSI6bnVsbH0=.c`), "é\x7f\t", "", true)
	claim := accountClaim{header: "account", space: "space", name: "name"}
	f.Fuzz(func(t *testing.T, token []byte, account, other string, padded bool) {
		if got := claim.of(token); got != "" && !isFieldValue(got) {
			t.Fatalf("of %q: %q", token, got)
		}
		if other == claim.space || other == claim.name || !utf8.ValidString(account) {
			return // they would overwrite each other, or be encoded as something else
		}
		text, err := json.Marshal(map[string]any{other: account, claim.space: map[string]any{other: 1, claim.name: account}})
		if err != nil {
			t.Fatal(err)
		}
		part := base64.RawURLEncoding.EncodeToString(text)
		if padded {
			part = base64.URLEncoding.EncodeToString(text)
		}
		made, want := "e30."+part+".sig", account
		if !isFieldValue(account) || len(made) > maxToken {
			want = ""
		}
		if got := claim.of([]byte(made)); got != want {
			t.Fatalf("of %q: %q, want %q", text, got, want)
		}
	})
}

func isFieldValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
