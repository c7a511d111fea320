package exchange

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/sluice-proxy/sluice/pool"
)

const refusedMessage = `{"type":"error","status":429,"error":{"type":"usage_limit_reached","message":"m"},"headers":{"x-codex-primary-used-percent":100,"retry-after":"77"}}`

// TestALimitThatIsToldInAWebSocket judges the member. Where a message is a whole call the agent does not hear of it, but
// is to connect again, and then is with the next member; elsewhere it does.
func TestALimitThatIsToldInAWebSocket(t *testing.T) {
	t.Parallel()
	good := `{"type":"response.created","response":{"error":null}}`
	long := `{"type":"response.output_text.delta","delta":"` + strings.Repeat("x", 20<<10) + `","error":{"code":"rate_limit_exceeded"}}`
	for name, c := range map[string]struct {
		path, provider string
		kind           websocket.MessageType
		said           string
		passed, judged bool
	}{
		"a call":                   {"/v1/responses", "openai", websocket.MessageText, refusedMessage, false, true},
		"a call with a query":      {"/v1/responses?x=/realtime", "openai", websocket.MessageText, refusedMessage, false, true},
		"a call that failed":       {"/v1/responses", "openai", websocket.MessageText, `{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}`, false, true},
		"a conversation":           {"/v1/realtime?model=/responses", "openai", websocket.MessageText, refusedMessage, true, true},
		"overloaded":               {"/v1/responses", "openai", websocket.MessageText, `{"type":"error","status":500,"error":{"type":"server_error"}}`, true, false},
		"no message of the API's":  {"/v1/responses", "openai", websocket.MessageBinary, refusedMessage, true, false},
		"no provider":              {"/v1/responses", "", websocket.MessageText, refusedMessage, true, false},
		"longer than is looked at": {"/v1/responses", "openai", websocket.MessageText, long, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, setup{
				route: &pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: c.provider},
				handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					conn, err := websocket.Accept(w, r, nil)
					if err != nil {
						return
					}
					defer conn.CloseNow()
					for {
						if _, _, err := conn.Read(r.Context()); err != nil {
							return
						}
						_ = conn.Write(r.Context(), websocket.MessageText, []byte(good))
						if member(r) == "a" {
							_ = conn.Write(r.Context(), c.kind, []byte(c.said))
						}
					}
				}),
			})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			dial := func() *websocket.Conn {
				conn, _, err := websocket.Dial(ctx, "wss://"+testHost+c.path, &websocket.DialOptions{HTTPClient: b.client(false)})
				if err != nil {
					t.Fatal(err)
				}
				conn.SetReadLimit(1 << 20)
				if err := conn.Write(ctx, websocket.MessageText, []byte("ask")); err != nil {
					t.Fatal(err)
				}
				if _, got, err := conn.Read(ctx); err != nil || string(got) != good {
					t.Fatalf("%q, %v", got, err)
				}
				return conn
			}
			conn := dial()
			defer conn.CloseNow()
			_, got, err := conn.Read(ctx)
			var closed websocket.CloseError
			if c.passed != (err == nil && string(got) == c.said) || !c.passed &&
				(!errors.As(err, &closed) || closed.Code != websocket.StatusServiceRestart || !strings.Contains(closed.Reason, "connect again")) {
				t.Errorf("%q, %v", got, err)
			}
			b.pools.mu.Lock()
			judged, answers, told := b.pools.out["a"], b.pools.answers, b.pools.told
			b.pools.mu.Unlock()
			if judged != c.judged {
				t.Errorf("the member was judged: %t", judged)
			}
			if want := c.judged && c.passed; (told > 0) != want {
				t.Errorf("the agent heard of a refusal: %t", told > 0)
			}
			if last := answers[len(answers)-1]; c.said == refusedMessage && judged && last.Header.Get("Retry-After") != "77" {
				t.Errorf("judged by %+v", last)
			}
			if !c.passed {
				again := dial() // with the next member
				_ = again.Close(websocket.StatusNormalClosure, "")
			}
		})
	}
}

// TestAClientThatNeverClosesAWebSocket holds its connection no longer than it lingers.
func TestAClientThatNeverClosesAWebSocket(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{
		route:  &pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: "openai"},
		change: func(o *Options) { o.LingerTimeout = 100 * time.Millisecond },
		raw: func(_ int, conn net.Conn) {
			if _, err := readRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"+
					"\x81\x7e"+string(binary.BigEndian.AppendUint16(nil, uint16(len(refusedMessage))))+refusedMessage)
				_, _ = io.Copy(io.Discard, conn)
			}
		},
	})
	conn := b.dial("http/1.1")
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /v1/responses HTTP/1.1\r\nHost: "+testHost+"\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n")
	if text, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(text), goneMember) {
		t.Fatalf("%q, %v", text, err)
	}
	eventually(t, "the connection is let go", func() bool {
		b.x.mu.Lock()
		defer b.x.mu.Unlock()
		return len(b.x.clients) == 0
	})
}

// TestMessagesInPieces: what is passed on, and what is judged, does not depend on how the bytes come.
func TestMessagesInPieces(t *testing.T) {
	t.Parallel()
	frame := func(first byte, payload string) string {
		switch n := len(payload); {
		case n < 126:
			return string([]byte{first, byte(n)}) + payload
		case n < 1<<16:
			return string(binary.BigEndian.AppendUint16([]byte{first, 126}, uint16(n))) + payload
		default:
			return string(binary.BigEndian.AppendUint64([]byte{first, 127}, uint64(n))) + payload
		}
	}
	before := frame(0x81, "hello") + frame(0x89, "") + frame(0x82, strings.Repeat("b", 300)) + frame(0x81, strings.Repeat("c", 70_000)) + frame(0x01, "no")
	all := before + frame(0x81, "no") + frame(0x81, "behind")
	for _, size := range []int{1, 2, 3, 7, 64, 4096, len(all)} {
		m := messages{refuses: func(text []byte) bool { return string(text) == "no" }}
		var held []byte
		passed, refused := 0, false
		for at := 0; at < len(all) && !refused; at += size {
			held = append(held, all[at:min(at+size, len(all))]...)
			var n int
			if n, refused = m.look(held); n > len(held) || len(held)-n > maxMessage {
				t.Fatalf("pieces of %d: %d of %d bytes", size, n, len(held))
			}
			m.passed(n)
			passed, held = passed+n, held[n:]
		}
		if !refused || passed != len(before) {
			t.Errorf("pieces of %d: refused %t after %d bytes, want %d", size, refused, passed, len(before))
		}
	}
	for _, strange := range []string{"\x81\x85abcdno", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"} {
		m := messages{refuses: func([]byte) bool { t.Error("looked at what cannot be read"); return true }}
		if n, refused := m.look([]byte(strange + "\x81\x02no")); refused || n != len(strange)+4 {
			t.Errorf("%q: %d, %t", strange, n, refused)
		}
	}
}
