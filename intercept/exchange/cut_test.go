package exchange

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// cutNumber stands in each recorded answer where the request's own number goes, which is as long.
const cutNumber = "000000"

// cutAnswers are recorded answers in HTTP/1.1, by what ends their body.
var cutAnswers = map[string]string{
	"length":  "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 38\r\nX-N: 000000\r\n\r\n{\"n\":\"000000\",\"text\":\"as it was sent\"}",
	"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-N: 000000\r\n\r\n6\r\n000000\r\n8;a=b\r\n, by the\r\n6\r\n000000\r\n0\r\nX-End: yes\r\n\r\n",
	"close":   "HTTP/1.1 200 OK\r\nConnection: close\r\nX-N: 000000\r\n\r\nuntil the end of 000000",
	"interim": "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-N: 000000\r\n\r\n000000",
	"stream":  "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nX-N: 000000\r\n\r\n15\r\ndata: {\"n\":\"000000\"}\n\r\n1\r\n\n\r\n0e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
	"refusal": "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nContent-Length: 26\r\nX-N: 000000\r\n\r\n{\"error\":{\"n\":\"000000\"}}  ",
}

// cutEnds are ways to end a connection in the middle.
var cutEnds = map[string]func(*tls.Conn){
	"reset": func(c *tls.Conn) { _ = c.NetConn().(*net.TCPConn).SetLinger(0); _ = c.NetConn().Close() },
	"fin":   func(c *tls.Conn) { _ = c.NetConn().Close() }, // without a close_notify
	"close": func(c *tls.Conn) { _ = c.Close() },
}

// cutOrigin answers POST /KIND/END/OFFSET/N with as much of an answer, and "/KIND/whole/0/N" with all of it.
func cutOrigin(_ int, c net.Conn) {
	for r := bufio.NewReader(c); ; {
		head, err := readRequest(r)
		if err != nil {
			return
		}
		part := strings.Split(strings.Fields(head)[1], "/")
		kind, end, n := part[1], part[2], part[4]
		offset, err := strconv.Atoi(part[3])
		if err != nil {
			return
		}
		if kind == "refusal" && !strings.Contains(head, secretOf("a")) {
			kind, end = "length", "whole"
		}
		text := strings.ReplaceAll(cutAnswers[kind], cutNumber, n)
		if end != "whole" {
			_, _ = io.WriteString(c, text[:offset])
			cutEnds[end](c.(*tls.Conn))
			return
		}
		if _, err := io.WriteString(c, text); err != nil || kind == "close" {
			return
		}
	}
}

// cutWant is what a whole answer of a kind is for a client.
func cutWant(kind, n string) (text string, headEnd int) {
	whole := cutAnswers[kind]
	resp, body, err := readAnswer(bufio.NewReader(strings.NewReader(whole)), "POST")
	if kind == "interim" {
		headEnd = strings.Index(whole, "\r\n\r\n") + 4
		resp, body, err = readAnswer(bufio.NewReader(strings.NewReader(whole[headEnd:])), "POST")
	}
	if err != nil || resp.Header.Get("X-N") != cutNumber {
		panic(fmt.Sprint(kind, resp, err))
	}
	headEnd += strings.Index(whole[headEnd:], "\r\n\r\n") + 4
	return strings.ReplaceAll(body, cutNumber, n), headEnd
}

// cutSeen is what a client got.
type cutSeen struct {
	status int    // 0: none
	n      string // which request the head says that it answers
	body   string
	err    error
}

func cutAsk(c *http.Client, kind, end string, offset int, n string) (s cutSeen) {
	resp, err := c.Post(fmt.Sprintf("https://%s/%s/%s/%d/%s", testHost, kind, end, offset, n), "application/json", nil)
	if err != nil {
		return cutSeen{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return cutSeen{resp.StatusCode, resp.Header.Get("X-N"), string(body), err}
}

// An origin that goes away at any byte of its answer: the agent is told, by a 502 as long
// as nothing was passed on and by a body that breaks off afterwards. It never takes a
// part for the whole, and never gets what belongs to another request.
func TestAnswerCutAtEveryOffset(t *testing.T) {
	t.Parallel()
	for kind, whole := range cutAnswers {
		for end := range cutEnds {
			t.Run(kind+"/"+end, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, setup{raw: cutOrigin})
				c := b.client(false)
				for offset := 0; offset < len(whole); offset += cutStep(end) {
					n := fmt.Sprintf("%06d", 100000+offset)
					cutRight(t, kind, end, offset, n, cutAsk(c, kind, end, offset, n))
					b.pools.restore()
					next := fmt.Sprintf("%06d", 200000+offset)
					want, _ := cutWant("length", next)
					if got := cutAsk(c, "length", "whole", 0, next); got != (cutSeen{200, next, want, nil}) {
						t.Fatalf("after %d bytes of another answer: %+v", offset, got)
					}
				}
				b.abandoned(c)
			})
		}
	}
}

// cutStep: a reset comes at every byte, and the other ends at each seventh, unless there is time.
func cutStep(end string) int {
	if end == "reset" || os.Getenv("SLUICE_SOAK") != "" {
		return 1
	}
	return 7
}

// cutRight holds what a client got to what an answer that was cut at offset may become.
func cutRight(t *testing.T, kind, end string, offset int, n string, got cutSeen) {
	t.Helper()
	want, headEnd := cutWant(kind, n)
	switch {
	case offset < headEnd:
		if got.status != 502 || got.n != "" || got.err != nil || !strings.Contains(got.body, "no answer from "+testHost) {
			t.Errorf("cut in the head, at %d: %+v", offset, got)
		}
	case kind == "refusal":
		if want, _ = cutWant("length", n); got != (cutSeen{200, n, want, nil}) {
			t.Errorf("a refusal cut at %d: %+v, want another member's answer", offset, got)
		}
	case got.status == 0: // the end overtook the head
		if got.err == nil {
			t.Errorf("cut at %d: %+v", offset, got)
		}
	case got.status != 200 || got.n != n || !strings.HasPrefix(want, got.body):
		t.Errorf("cut at %d: %+v, want the beginning of %q", offset, got, want)
	case kind == "close" && end != "reset":
		// The end of the connection is the body's. crypto/tls does not tell one without a
		// close_notify from one with it, because many servers leave that out.
	case got.err == nil:
		t.Errorf("cut at %d, and it looks whole: %+v", offset, got)
	}
}

// abandoned waits until nothing is left of a client that leaves.
func (b *bench) abandoned(c *http.Client) {
	b.t.Helper()
	c.CloseIdleConnections()
	eventually(b.t, "no client and no byte is kept", func() bool {
		b.x.mu.Lock()
		defer b.x.mu.Unlock()
		return len(b.x.clients) == 0 && b.x.budget.Load() == 0
	})
}

// cutFrames is a recorded answer in HTTP/2, to stream 1 of a fresh connection: it is whole
// with its last byte.
func cutFrames(n string) []byte {
	var out, fields bytes.Buffer
	f, h := http2.NewFramer(&out, nil), hpack.NewEncoder(&fields)
	for _, field := range [][2]string{{":status", "200"}, {"content-type", "application/json"}, {"x-n", n}} {
		_ = h.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	_ = f.WriteSettings()
	_ = f.WriteSettingsAck()
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields.Bytes(), EndHeaders: true})
	_ = f.WriteData(1, false, []byte(`{"n":"`))
	_ = f.WriteData(1, true, []byte(n+`"}`))
	return out.Bytes()
}

// cutH2Origin reads one request of a connection and answers as cutOrigin does.
func cutH2Origin(_ int, c net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return
	}
	f := http2.NewFramer(io.Discard, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		m, ok := frame.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		part := strings.Split(m.PseudoValue("path"), "/")
		offset, err := strconv.Atoi(part[3])
		if err != nil {
			return
		}
		text := cutFrames(part[4])
		if part[2] != "whole" {
			_, _ = c.Write(text[:offset])
			cutEnds[part[2]](c.(*tls.Conn))
			return
		}
		_, _ = c.Write(text)
		_, _ = io.Copy(io.Discard, c)
		return
	}
}

// The same of an HTTP/2 origin, whose head and body are frames.
func TestAnswerInFramesCutAtEveryOffset(t *testing.T) {
	t.Parallel()
	for end := range cutEnds {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, setup{raw: cutH2Origin, protos: []string{"h2"}})
			c := b.client(true)
			for offset := 0; offset < len(cutFrames(cutNumber)); offset += cutStep(end) {
				n := fmt.Sprintf("%06d", 100000+offset)
				got, want := cutAsk(c, "frames", end, offset, n), `{"n":"`+n+`"}`
				switch {
				case got.status == 502 && got.n == "" && got.err == nil && strings.Contains(got.body, "no answer from "+testHost):
				case got.status == 0 && got.err != nil:
				case got.status == 200 && got.n == n && got.err != nil && strings.HasPrefix(want, got.body):
				default:
					t.Errorf("cut at %d: %+v", offset, got)
				}
			}
			if got := cutAsk(c, "frames", "whole", 0, "300000"); got != (cutSeen{200, "300000", `{"n":"300000"}`, nil}) {
				t.Errorf("afterwards: %+v", got)
			}
			b.abandoned(c)
		})
	}
}
