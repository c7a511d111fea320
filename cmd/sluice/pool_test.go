package main

import (
	"strings"
	"testing"
)

// TestHostsThatAreGivenWrongly: each is told what is wrong about it.
func TestHostsThatAreGivenWrongly(t *testing.T) {
	t.Parallel()
	for given, says := range map[string]string{
		"https://api.example.com":    "is a URL: give the host alone",
		"https://api.example.com:8/": "is a URL: give the host alone",
		"api.example.com:https":      "the port is not a number",
		"api.example.com:":           "the port is not a number",
		"":                           "HOST or HOST:PORT",
	} {
		if _, err := bindingSpecs([]string{"a.example", given}, "X-Key: {token}"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", given, err, says)
		}
	}
}
