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
