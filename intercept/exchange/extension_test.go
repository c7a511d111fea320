package exchange

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestEchoesInChunkExtensions: nobody needs what an upstream says there, but an agent could read it.
func TestEchoesInChunkExtensions(t *testing.T) {
	t.Parallel()
	for name, extension := range map[string]string{
		"a value": ";e=" + echoedKey, "quoted": `;e="` + echoedKey + `"`, "a name": ";" + echoedKey, "the second": ";a=1;b=" + echoedKey, "spaces": " ; e = " + echoedKey,
	} {
		for _, kind := range []string{"application/json", "text/plain", "text/event-stream"} {
			for _, slow := range []bool{false, true} {
				var mu sync.Mutex
				var seen []Echoed
				b := newBench(t, setup{change: parrot(&seen, &mu), raw: func(_ int, conn net.Conn) {
					if _, err := readRequest(bufio.NewReader(conn)); err != nil {
						return
					}
					text := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5%s\r\n{\"a\":\r\n2%[2]s\r\n1}\r\n0%[2]s\r\n\r\n",
						kind, extension)
					half := 0
					if slow {
						half = strings.Index(text, echoedKey) + len(echoedKey)/2
					}
					_, _ = io.WriteString(conn, text[:half])
					if slow {
						time.Sleep(5 * time.Millisecond)
					}
					_, _ = io.WriteString(conn, text[half:])
				}})
				c := b.dial()
				_, _ = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", testHost)
				all, _ := io.ReadAll(c) // as it came: a client's library would not show them
				if strings.Contains(string(all), echoedKey) || strings.Contains(string(all), echoedKey[len(echoedKey)/2:]) {
					t.Errorf("%s, %s, slow %v: %q", name, kind, slow, all)
				}
				_, body, err := readAnswer(bufio.NewReader(strings.NewReader(string(all))), "GET")
				if want := `{"a":1}`; err != nil || body != want {
					if extension[0] != ' ' { // which is malformed here
						t.Errorf("%s, %s, slow %v: the body is %q, %v", name, kind, slow, body, err)
					}
				}
			}
		}
	}
}
