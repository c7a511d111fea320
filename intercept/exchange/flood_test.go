package exchange

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flood is a client that sends frames of HTTP/2 as fast as they are taken, and reads none.
type flood struct {
	name   string
	enough int
	frame  func(f *http2.Framer, head []byte, n int) error
	ended  bool // by sluice, before there were enough
}

// TestFloodsOfFrames has an agent attack sluice by what HTTP/2 costs the other side more than itself. Other clients are served
// beside it, what is open upstream and what is held in memory stays within bounds, and nothing is left.
func TestFloodsOfFrames(t *testing.T) {
	id := func(n int) uint32 { return uint32(2*n + 1) }
	for _, c := range []flood{
		{"streams reset at once", 20_000, func(f *http2.Framer, head []byte, n int) error { // CVE-2023-44487
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id(n), BlockFragment: head, EndHeaders: true, EndStream: true}); err != nil {
				return err
			}
			return f.WriteRSTStream(id(n), http2.ErrCodeCancel)
		}, false},
		{"a head without an end", 20_000, func(f *http2.Framer, head []byte, n int) error { // CVE-2023-45288
			if n == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head})
			}
			return f.WriteContinuation(1, false, literal("x", string(bytes.Repeat([]byte{'y'}, 8<<10))))
		}, true},
		{"heads that unpack to much", 200, func(f *http2.Framer, head []byte, n int) error {
			if n == 0 { // a field of 4,000 bytes that each byte from here on names (RFC 7541, 7.3)
				head = append(bytes.Clone(head), indexed("x", string(bytes.Repeat([]byte{'y'}, 4000)))...)
			}
			return f.WriteHeaders(http2.HeadersFrameParam{
				StreamID: id(n), BlockFragment: append(bytes.Clone(head), bytes.Repeat([]byte{0x80 | 62}, 8<<10)...), EndHeaders: true, EndStream: true,
			})
		}, false},
		{"settings", 200_000, func(f *http2.Framer, _ []byte, _ int) error { return f.WriteSettings() }, false},
		{"pings", 100_000, func(f *http2.Framer, _ []byte, _ int) error { return f.WritePing(false, [8]byte{}) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var open, most, all atomic.Int64
			b := newBench(t, setup{protos: []string{"h2", "http/1.1"}, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/normal" {
					return
				}
				all.Add(1)
				for now := open.Add(1); now > most.Load(); {
					most.Store(now)
				}
				defer open.Add(-1)
				<-r.Context().Done()
			})})
			normal := b.client(true)
			ask := func() {
				t.Helper()
				resp, err := normal.Get("https://" + testHost + "/normal")
				if err != nil {
					t.Fatal(err)
				}
				if resp.Body.Close(); resp.StatusCode != http.StatusOK {
					t.Errorf("a normal client was answered %s", resp.Status)
				}
			}
			ask()
			before := heap()
			conn := b.dial("h2")
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			sent := make(chan int, 1)
			go func() { sent <- c.send(conn) }()
			n, held := 0, uint64(0)
			for n == 0 {
				ask()
				held = max(held, heap())
				select {
				case n = <-sent:
				default:
				}
			}
			conn.Close()
			if c.ended && n == c.enough {
				t.Errorf("all of %d frames were taken", n)
			}
			if most.Load() > 250 {
				t.Errorf("%d requests were open upstream at once", most.Load())
			}
			if held > before+64<<20 {
				t.Errorf("%d MiB were held, and %d before", held>>20, before>>20)
			}
			t.Logf("%d frames, %d requests upstream, %d at once, up to %d MiB more", n, all.Load(), most.Load(), max(held, before)>>20-before>>20)
			eventually(t, "nothing is open upstream", func() bool { return open.Load() == 0 })
			ask()
			b.abandoned(normal)
		})
	}
}

// send returns how many frames were taken, until the connection was ended or there were enough.
func (c flood) send(conn io.Writer) int {
	out := bufio.NewWriterSize(conn, 16<<10)
	var head bytes.Buffer
	h := hpack.NewEncoder(&head)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", testHost}, {":path", "/flood"}} {
		_ = h.WriteField(hpack.HeaderField{Name: field[0], Value: field[1], Sensitive: true}) // which enters it in no table
	}
	f := http2.NewFramer(out, nil)
	_, _ = out.WriteString(http2.ClientPreface)
	_ = f.WriteSettings()
	for n := range c.enough {
		if err := c.frame(f, head.Bytes(), n); err != nil {
			return max(n, 1)
		}
	}
	if out.Flush() != nil {
		return c.enough - 1
	}
	return c.enough
}

// literal is a field that enters no table, indexed one that does (RFC 7541, 6.2).
func literal(name, value string) []byte {
	var out bytes.Buffer
	_ = hpack.NewEncoder(&out).WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true})
	return out.Bytes()
}

func indexed(name, value string) []byte {
	var out bytes.Buffer
	_ = hpack.NewEncoder(&out).WriteField(hpack.HeaderField{Name: name, Value: value})
	return out.Bytes()
}

// heap is what is allocated and in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
