package exchange

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// TestCallsAreNotMadeInAWebSocket: a limit that is told in one could not be followed. Who says that it can do
// without is asked to; everybody else's WebSocket is passed on.
func TestCallsAreNotMadeInAWebSocket(t *testing.T) {
	t.Parallel()
	const codex = "OpenAI-Beta: responses_websockets=2026-02-06\r\n"
	for name, c := range map[string]struct {
		provider, fields, upgrade string
		status                    int
	}{
		"Codex":                     {"openai", codex, "websocket", 426},
		"Codex with a login":        {"codex", codex, "websocket", 426},
		"with another beta":         {"codex", "openai-beta: a=1, responses_websockets=2027-01-01\r\n", "WebSocket", 426},
		"in a second field":         {"openai", "OpenAI-Beta: a=1\r\n" + codex, "websocket", 426},
		"an SDK":                    {"openai", "", "websocket", 101},
		"a realtime client":         {"openai", "OpenAI-Beta: realtime=v1\r\n", "websocket", 101},
		"no provider that is known": {"", codex, "websocket", 101},
		"another provider":          {"openrouter", codex, "websocket", 101},
		"no upgrade at all":         {"openai", codex, "", 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, setup{
				route: &pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: c.provider},
				raw: func(_ int, conn net.Conn) {
					head, err := readRequest(bufio.NewReader(conn))
					switch {
					case err != nil:
					case strings.Contains(head, "\r\nUpgrade: "):
						_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
					default:
						_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				},
			})
			fields := c.fields
			if c.upgrade != "" {
				fields += "Connection: upgrade\r\nUpgrade: " + c.upgrade + "\r\nSec-WebSocket-Key: k\r\n"
			}
			conn := b.dial("http/1.1")
			defer conn.Close()
			r := bufio.NewReader(conn)
			for range 2 { // the connection is good for the POST that follows
				_, _ = io.WriteString(conn, "GET /v1/responses HTTP/1.1\r\nHost: "+testHost+"\r\n"+fields+"\r\n")
				answer, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(io.LimitReader(answer.Body, max(answer.ContentLength, 0)))
				if answer.StatusCode != c.status {
					t.Fatalf("%s: %s", answer.Status, body)
				}
				if c.status != 426 {
					return
				}
				if !strings.Contains(string(body), "POST") || answer.Header.Get("Upgrade") == "" {
					t.Errorf("%v: %s", answer.Header, body)
				}
			}
			if n := b.x.Snapshot().Dials; n > 1 { // one that the handshake may have opened
				t.Errorf("%d connections to the upstream", n)
			}
		})
	}
}

// TestAClientOfTheOldestProtocol names HTTP/1.0 in its handshake and nothing else, as curl does when it is told to.
func TestAClientOfTheOldestProtocol(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, member(r)) })})
	c := b.dial("http/1.0")
	defer c.Close()
	_, _ = io.WriteString(c, "GET / HTTP/1.0\r\nHost: "+testHost+"\r\n\r\n")
	answer, body, err := readAnswer(bufio.NewReader(c), "GET")
	if err != nil || answer.StatusCode != 200 || body != "a" {
		t.Errorf("%v, %q, %v", answer, body, err)
	}
	if proto := b.dial("http/1.0", "http/1.1").ConnectionState().NegotiatedProtocol; proto != "http/1.1" {
		t.Errorf("of both %q was chosen", proto)
	}
}
