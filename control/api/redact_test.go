package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A client has to send what these types hold, and nothing but its JSON may show it.
func TestBodiesWithSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	secret := "canary-secret"
	tokens := OAuthTokens{AccessToken: secret, RefreshToken: secret, ExpiresAt: time.Unix(1, 0)}
	header := ExtraHeader{Name: "X-Account", Value: secret}
	headers := []ExtraHeader{header}
	for _, body := range []any{
		tokens, &tokens, header, headers,
		CredentialSpec{Name: "a", Secret: &secret, Oauth: &tokens, ExtraHeaders: &headers},
		&CredentialSpec{Name: "a", Secret: &secret, Oauth: &tokens, ExtraHeaders: &headers},
		CredentialChange{Secret: &secret, Oauth: &tokens, ExtraHeaders: &headers},
	} {
		var text strings.Builder
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "body", body)
		if _, list := body.([]ExtraHeader); !list { // slog asks only what it is given, and that has no methods
			slog.New(slog.NewJSONHandler(&text, nil)).Info("x", "body", body)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%c"} {
			fmt.Fprintf(&text, verb, body)
		}
		for _, form := range []string{"canary", "63616e617279", "99 97 110", "'c' 'a' 'n'"} {
			if strings.Contains(text.String(), form) {
				t.Errorf("%T is printed: %s", body, text.String())
			}
		}
		if sent, err := json.Marshal(body); err != nil || !strings.Contains(string(sent), secret) {
			t.Errorf("%T is sent as %s: %v", body, sent, err)
		}
	}
}
