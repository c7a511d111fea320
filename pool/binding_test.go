package pool

import (
	"strings"
	"testing"
)

// TestURLInTheHostsPlace is what people paste: it is called one, not a host with an odd port.
func TestURLInTheHostsPlace(t *testing.T) {
	t.Parallel()
	host, _, err := ParseHostPort("https://api.example.com/v1")
	if err == nil {
		_, err = validHost(host)
	}
	if err == nil || !strings.Contains(err.Error(), "give the host name alone") {
		t.Error(err)
	}
	if host, port, err := ParseHostPort("a.example:8443"); host != "a.example" || port != 8443 || err != nil {
		t.Errorf("%q, %d, %v", host, port, err)
	}
}

// TestTemplatesWithTheSecretItself are a mistake that people make, of which the daemon's log
// tells.
func TestTemplatesWithTheSecretItself(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"Authorization: Bearer sk-canary":          "Authorization has no {token}",
		"Authorization Bearer sk-canary":           "'Name: value with {token}'",
		"X-Key: sk-canary{token}{token}":           "X-Key has {token} more than once",
		"Host: sk-canary":                          "Host frames or routes the message",
		"Authorization: Bearer sk-canary\n{token}": "line break",
	} {
		if _, err := parseTemplate(text); err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := validAccount("sk-canary", nil); err == nil || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
}
