package main

import (
	"strings"
	"testing"
)

// hijack is an agent with CAP_NET_ADMIN: it has sluice's own connection to the upstream, which is made in the agent's namespace,
// come to a server of its own that shows a certificate for the host, by the agent's own hand and by nobody the daemon trusts.
// It prints how the server's handshake ended and what it was sent, then what the client was answered.
const hijack = `
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN="$1" -addext "subjectAltName=DNS:$1" \
	-keyout own.key -out own.pem 2>/dev/null
python3 -c '
import socket, ssl
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain("own.pem", "own.key")
l = socket.create_server(("", 8443))
print("ready", flush=True)
while True:
    s = l.accept()[0]
    try:
        t = c.wrap_socket(s, server_side=True)
        print("handshake done, sent:", t.recv(4096), flush=True)
    except (ssl.SSLError, OSError) as e:
        print("no handshake:", getattr(e, "reason", e), flush=True)
' >served & server=$!
until grep -q ready served; do sleep 0.01; done
nft add table ip own
nft 'add chain ip own out { type nat hook output priority -100; }'
nft add rule ip own out ip daddr "$2" tcp dport 443 dnat to "$3":8443
curl -sS -w ' %{http_code}\n' -H "Authorization: Bearer $OPENAI_API_KEY" "https://$1/v1/models"
nft delete table ip own
kill $server
cat served
curl -sS -o /dev/null -w '%{http_code}\n' -H "Authorization: Bearer $OPENAI_API_KEY" "https://$1/v1/models"
`

// TestHijackedUpstream has an agent redirect sluice's connection to itself. The certificate is none that the daemon's
// host trusts, whatever the agent's does: no request is sent, and no credential.
func TestHijackedUpstream(t *testing.T) {
	t.Parallel()
	needs(t, "openssl", "python3", "nft")
	h := newHouse(t, nil)
	h.write("hijack", hijack)
	out := h.output("sh", "hijack", loadHost, h.pair.ServerIP4, h.pair.AgentIP4) // which looks for secrets in it
	answered, served, _ := strings.Cut(out, "ready\n")
	served, last, _ := strings.Cut(served, "\n200\n")
	if !strings.HasSuffix(answered, " 502\n") || !strings.Contains(answered, "certificate") {
		t.Errorf("the client was answered %q", answered)
	}
	if !strings.HasPrefix(served, "no handshake: ") || strings.Contains(served, "handshake done") {
		t.Errorf("the agent's server says %q", served)
	}
	if !strings.HasSuffix(out, "\n200\n") || last != "" {
		t.Errorf("without the redirect: %q", out)
	}
	h.seen(0, 1) // the last one
}
