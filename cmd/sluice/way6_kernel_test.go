package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHostsWithAddressesThatAreOutOfReach: the hosts that matter have addresses of IPv6, which most containers have no way to. Clients go on with
// the next one, whether a pool is bound to the host or not.
func TestHostsWithAddressesThatAreOutOfReach(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	hosts, err := os.ReadFile(filepath.Join(h.dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("hosts", "2001:db8::1 api.openai.com unbound.example\n"+string(hosts))
	if got := h.chat("-d", chatBody); !strings.Contains(got, "\n200 ") {
		t.Errorf("curl: %s", got)
	}
	for _, name := range []string{"chat_httpclient.py", "chat_urllib.py"} {
		if got := h.output("python3", script(t, name)); strings.Contains(got, "unreachable") || !strings.Contains(got, "200") {
			t.Errorf("%s: %s", name, got)
		}
	}
	got := h.output("curl", "-sS", "-k", "-m", "20", "-o", "/dev/null", "-w", "%{remote_ip}", "https://unbound.example/")
	if got != h.pair.ServerIP4 {
		t.Errorf("a host that is not bound: %s", got)
	}
}
