package exchange

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// inOneSegment has the kernel send what f writes together, so that the reader's
// TLS gets several records with one read.
func inOneSegment(t *testing.T, c net.Conn, f func()) {
	raw, err := c.(*tls.Conn).NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	cork := func(on int) {
		_ = raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on); err != nil {
				t.Error(err)
			}
		})
	}
	cork(1)
	f()
	cork(0)
}

// TestAnswerNobodyAskedForIsNotTheNextOnes: the second record lies decrypted by
// nobody in the TLS layer, where a look at the socket does not see it.
func TestAnswerNobodyAskedForIsNotTheNextOnes(t *testing.T) {
	t.Parallel()
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for name, c := range map[string]struct{ method, answer string }{
		"behind a body": {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine"},
		"behind a 204":  {"GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		"behind a HEAD": {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n"},
		"behind a 429":  {"GET", "HTTP/1.1 429 No\r\nContent-Length: 0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, setup{raw: func(n int, conn net.Conn) {
				r := bufio.NewReader(conn)
				for i := 0; ; i++ {
					if _, err := readRequest(r); err != nil {
						return
					}
					if n > 0 || i > 0 {
						io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue")
						continue
					}
					inOneSegment(t, conn, func() {
						io.WriteString(conn, c.answer)
						io.WriteString(conn, poison)
					})
				}
			}})
			client := b.dial("http/1.1")
			r := bufio.NewReader(client)
			for i, method := range []string{c.method, "GET"} {
				io.WriteString(client, method+" / HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n")
				resp, body, err := readAnswer(r, method)
				if err != nil {
					t.Fatal(i, err)
				}
				if body == "poison" || (i == 1 && body != "true") {
					t.Errorf("request %d was answered %d %q", i, resp.StatusCode, body)
				}
			}
		})
	}
}

// TestMethodsThatAreNotCarried: TRACE has the upstream send the credential back,
// and after CONNECT the two sides may disagree on where a message ends.
func TestMethodsThatAreNotCarried(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	b := newBench(t, setup{protos: []string{"h2", "http/1.1"}, handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })})
	for _, line := range []string{"CONNECT /", "CONNECT https://" + testHost + "/", "TRACE /", "TRACE *"} {
		resp, body := b.talk(line + " HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n")
		if resp.StatusCode != 501 && resp.StatusCode != 400 {
			t.Errorf("%s: got %d %q", line, resp.StatusCode, body)
		}
	}
	req, _ := http.NewRequest("TRACE", "https://"+testHost+"/", nil)
	resp, err := b.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 501 || resp.ProtoMajor != 2 {
		t.Errorf("TRACE over HTTP/%d: got %d", resp.ProtoMajor, resp.StatusCode)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d of them reached the upstream", n)
	}
}

func TestUpgradeToH2CIsNeverAskedFor(t *testing.T) {
	t.Parallel()
	heads := make(chan string, 1)
	b := newBench(t, setup{raw: func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for {
			head, err := readRequest(r)
			if err != nil {
				return
			}
			heads <- head
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	}})
	for _, fields := range []string{
		"Upgrade: h2c\r\n",
		"Upgrade: websocket, h2c\r\n",
		"Upgrade: h2c\r\nUpgrade: websocket\r\n",
		"Upgrade: websocket\r\nUpgrade: H2C\r\n",
	} {
		b.talk("GET / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: AA\r\n" + fields + "\r\n")
		if head := strings.ToLower(<-heads); strings.Contains(head, "h2c") || strings.Contains(head, "http2-settings") {
			t.Errorf("%q went upstream as %q", fields, head)
		}
	}
}
