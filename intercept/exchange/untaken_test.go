package exchange

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is an HTTP/2 origin that answers a request, once it is there whole, by frames of the test's own making. It ends the
// connection where answer says so.
func frames(answer func(fr *http2.Framer, stream uint32, body string) (end bool)) func(int, net.Conn) {
	return func(_ int, c net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		fr := http2.NewFramer(c, c)
		_ = fr.WriteSettings()
		bodies := make(map[uint32]string)
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			stream, ended := f.Header().StreamID, false
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					_ = fr.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				ended = f.StreamEnded()
			case *http2.PingFrame:
				_ = fr.WriteRSTStream(1, http2.ErrCodeEnhanceYourCalm)
			case *http2.DataFrame:
				bodies[stream] += string(f.Data())
				ended = f.StreamEnded()
				if n := uint32(len(f.Data())); n > 0 {
					_, _ = fr.WriteWindowUpdate(0, n), fr.WriteWindowUpdate(stream, n)
				}
			}
			if ended && answer(fr, stream, bodies[stream]) {
				_, _ = io.Copy(io.Discard, c) // until the other side has seen it
				return
			}
		}
	}
}

// TestASilentUpstreamIsNotPinged: a client that pings while nothing is said, and did not agree to that with the server, loses its connection to
// those of gRPC (grpc/proposal A8: too_many_pings).
func TestASilentUpstreamIsNotPinged(t *testing.T) {
	t.Parallel()
	const silence = 31 * time.Second // the library's own habit is 30
	b := newBench(t, setup{protos: []string{"h2"}, raw: frames(func(fr *http2.Framer, stream uint32, _ string) bool {
		time.AfterFunc(silence, func() { say(fr, stream, "at last") })
		return false
	})})
	c := b.client(true)
	c.Timeout = 2 * silence
	resp, err := c.Get("https://" + testHost + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || string(got) != "at last" {
		t.Errorf("%d %q, %v", resp.StatusCode, got, err)
	}
}

// say answers with a short body.
func say(fr *http2.Framer, stream uint32, body string) {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
	_ = fr.WriteData(stream, true, []byte(body))
}

// TestWhatAnUpstreamDidNotTakeIsSentAgain: servers that are replaced, or have enough on one connection, say of a request that
// nothing was done with it (RFC 9113 section 8.7), when its body has long gone out. That is no answer for an agent.
func TestWhatAnUpstreamDidNotTakeIsSentAgain(t *testing.T) {
	t.Parallel()
	for name, untaken := range map[string]func(fr *http2.Framer, stream uint32) (end bool){
		"refused stream": func(fr *http2.Framer, stream uint32) bool {
			_ = fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			return false
		},
		"going away": func(fr *http2.Framer, stream uint32) bool {
			_ = fr.WriteGoAway(stream-2, http2.ErrCodeNo, nil)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			b := newBench(t, setup{
				protos: []string{"h2"}, change: func(o *Options) { o.MaxReplayBody = 1 << 20 },
				raw: frames(func(fr *http2.Framer, stream uint32, body string) bool {
					if asked.Add(1)%2 == 0 && stream > 1 {
						return untaken(fr, stream)
					}
					say(fr, stream, strconv.Itoa(len(body)))
					return false
				}),
			})
			c := b.client(true)
			for _, body := range []string{"first", "untaken", strings.Repeat("long ", 100<<10)} {
				resp, err := c.Post("https://"+testHost+"/", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK || string(got) != strconv.Itoa(len(body)) {
					t.Errorf("%d bytes: %d %q", len(body), resp.StatusCode, got)
				}
			}
			if n := asked.Load(); n != 5 {
				t.Errorf("sent %d times", n)
			}
		})
	}
}
