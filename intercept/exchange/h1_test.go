package exchange

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func TestRequestGetsTheMembersCredential(t *testing.T) {
	t.Parallel()
	heads := make(chan string, 4)
	b := newBench(t, setup{raw: func(_ int, c net.Conn) {
		r := bufio.NewReader(c)
		for {
			head, err := readRequest(r)
			if err != nil {
				return
			}
			heads <- head
			io.WriteString(c, "HTTP/1.1 200 Fine\r\nX-Odd-CASE:  v \r\nContent-Length: 2\r\nKeep-Alive: timeout=30\r\n\r\nok")
		}
	}})
	c := b.dial("http/1.1")
	r := bufio.NewReader(c)
	for range 3 {
		io.WriteString(c, "GET /v1?key=mine&a=b&k%65y=too HTTP/1.1\r\nhost: API.example.com.:443\r\nAUTHORIZATION: Bearer fake\r\n"+
			"X-Api-Key: fake\r\nX_API_KEY: fake\r\nX-One: 1\r\nConnection: keep-alive, x-gone\r\nX-Gone: yes\r\nTE: trailers, deflate\r\nProxy-Authorization: x\r\nx-One: 2\r\n\r\n")
		want := "GET /v1?a=b HTTP/1.1\r\nhost: API.example.com.:443\r\nX-One: 1\r\nx-One: 2\r\nTE: trailers\r\nConnection: TE\r\nauthorization: Bearer real-a\r\n\r\n"
		if got := <-heads; got != want {
			t.Fatalf("upstream got\n%q\nwant\n%q", got, want)
		}
		var head strings.Builder
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			head.WriteString(line)
			if line == "\r\n" {
				break
			}
		}
		if want := "HTTP/1.1 200 Fine\r\nX-Odd-CASE:  v \r\nContent-Length: 2\r\n\r\n"; head.String() != want {
			t.Fatalf("client got %q, want %q", head.String(), want)
		}
		io.ReadFull(r, make([]byte, 2))
	}
	if s := b.x.Snapshot(); s.Dials != 1 || s.Reused != 2 || s.Requests != 3 {
		t.Errorf("counters: %+v", s)
	}
}

// TestNoBlockKeepsTheCredential: the one that a head was written in goes to somebody else next.
func TestNoBlockKeepsTheCredential(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, member(r)) })})
	var mu sync.Mutex
	var lent [][]byte
	note := func(block []byte) {
		mu.Lock()
		defer mu.Unlock()
		lent = append(lent, block)
	}
	b.x.blocks.p1.New = func() any { block := new([block1k]byte); note(block[:]); return block }
	b.x.blocks.p4.New = func() any { block := new([block4k]byte); note(block[:]); return block }
	c := b.client(false)
	for _, body := range []string{"", "short"} {
		r := newRequest("POST", strings.NewReader(body))
		r.Header.Set("X", strings.Repeat("x", 600)) // the answer's head is written over the beginning
		if _, got := ask(t, c, r); got != "a" {
			t.Errorf("answered by %q", got)
		}
	}
	b.abandoned(c)
	mu.Lock()
	defer mu.Unlock()
	if len(lent) == 0 {
		t.Error("no block was lent")
	}
	for _, block := range lent {
		if bytes.Contains(block, []byte("real-a")) {
			t.Errorf("a block of %d bytes holds the credential", len(block))
		}
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s:%s", r.URL.Path, body)
	})})
	c := b.dial()
	var all strings.Builder
	for i := range 20 {
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", i, testHost)
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\nxy", i, testHost)
	}
	go io.WriteString(c, all.String())
	r := bufio.NewReader(c)
	for i := range 20 {
		for _, body := range []string{"abc", "xy"} {
			_, got, err := readAnswer(r, "POST")
			if want := fmt.Sprintf("/%d:%s", i, body); err != nil || got != want {
				t.Fatalf("got %q, %v; want %q", got, err, want)
			}
		}
	}
}

func TestRefusedRequestGoesToTheNextMember(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"h1", "h2"} {
		for _, size := range []int{0, 10, 3000, 40 << 10, 300 << 10, 20 << 20} {
			t.Run(fmt.Sprintf("%s/%d", proto, size), func(t *testing.T) {
				t.Parallel()
				payload := make([]byte, size)
				rand.Read(payload)
				var asked atomic.Int32
				protos := []string{"http/1.1"}
				if proto == "h2" {
					protos = []string{"h2", "http/1.1"}
				}
				b := newBench(t, setup{protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked.Add(1)
					h := sha256.New()
					n, err := io.Copy(h, r.Body)
					if err != nil || n != int64(size) || !bytes.Equal(h.Sum(nil), sum(payload)) {
						t.Errorf("member %s got %d bytes, %v, or other ones", member(r), n, err)
					}
					if member(r) == "a" {
						refuse(w)
						return
					}
					fmt.Fprint(w, "served by "+member(r))
				})})
				req, _ := http.NewRequest("POST", "https://"+testHost+"/v1", bytes.NewReader(payload))
				resp, err := b.client(proto == "h2").Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(body) != "served by b" || resp.Header.Get("Retry-After") != "" {
					t.Errorf("client got %d %q %v", resp.StatusCode, body, resp.Header)
				}
				if want := map[string]int{"h1": 1, "h2": 2}[proto]; resp.ProtoMajor != want {
					t.Errorf("client spoke HTTP/%d", resp.ProtoMajor)
				}
				if n := asked.Load(); n != 2 {
					t.Errorf("upstream was asked %d times", n)
				}
			})
		}
	}
}

func sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

func TestExhaustedPoolIsAnsweredLocally(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			protos := []string{"http/1.1"}
			if proto == "h2" {
				protos = []string{"h2", "http/1.1"}
			}
			b := newBench(t, setup{protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				refuse(w)
			})})
			cl := b.client(proto == "h2")
			for i := range 3 {
				resp, err := cl.Post("https://"+testHost+"/", "text/plain", strings.NewReader("hello"))
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "90" || resp.Header.Get("Sluice-Pool") != "p" || !bytes.Contains(body, []byte("error")) {
					t.Errorf("%d: got %d %v %q", i, resp.StatusCode, resp.Header, body)
				}
			}
			if n := asked.Load(); n != 2 {
				t.Errorf("upstream was asked %d times, want once a member", n)
			}
			if s := b.x.Snapshot(); s.Connections != 1 || s.Exhausted != 3 {
				t.Errorf("counters: %+v", s)
			}
		})
	}
}

// A machine that does something else for a moment makes anything late, so the same events
// come straight from the origin, too: those tell how late it is to blame for. In one of a few
// tries there must be hardly more through sluice, and all in order in each.
func TestStreamArrivesInOrderAndInTime(t *testing.T) {
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			var tries []string
			for range 3 {
				late, anyway := lateEvents(t, proto)
				if late <= 10+3*anyway {
					return
				}
				tries = append(tries, fmt.Sprintf("%d, and %d of those that came straight from the origin", late, anyway))
			}
			t.Errorf("came later than 50 ms after they were sent: %s", strings.Join(tries, "; "))
		})
	}
}

// lateEvents reads a stream, and the same from the origin itself at the same time, and counts
// the events of each that came too late.
func lateEvents(t *testing.T, proto string) (late, anyway int) {
	t.Helper()
	const events = 5000
	protos := []string{"http/1.1"}
	if proto == "h2" {
		protos = []string{"h2", "http/1.1"}
	}
	epoch := time.Now()
	b := newBench(t, setup{protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		// 5,000 a second: a flood would only measure how much the sockets hold.
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for i := range events {
			if i%10 == 0 {
				<-pace.C
			}
			fmt.Fprintf(w, "data: %d %d\n\n", i, time.Since(epoch))
			w.(http.Flusher).Flush()
		}
	})})
	var group errgroup.Group
	for client, count := range map[*http.Client]*int{b.client(proto == "h2"): &late, b.direct(proto == "h2"): &anyway} {
		group.Go(func() error {
			resp, err := client.Get("https://" + testHost + "/")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			lines := bufio.NewScanner(resp.Body)
			n := 0
			for lines.Scan() {
				if lines.Text() == "" {
					continue
				}
				var i int
				var sent time.Duration
				if _, err := fmt.Sscanf(lines.Text(), "data: %d %d", &i, &sent); err != nil || i != n {
					return fmt.Errorf("event %d is %q", n, lines.Text())
				}
				if time.Since(epoch)-sent > 50*time.Millisecond {
					*count++
				}
				n++
			}
			if n != events {
				return fmt.Errorf("%d events: %v", n, lines.Err())
			}
			return lines.Err()
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return late, anyway
}

// What the upstream says of how long it keeps a connection is taken for a second less, and never for more than the limit.
func TestHowLongAnUpstreamKeepsAConnection(t *testing.T) {
	t.Parallel()
	const limit = time.Minute
	for field, want := range map[string]time.Duration{
		"": limit, "timeout=30": 29 * time.Second, "max=5, Timeout=2": time.Second, "timeout=1": 0, "timeout=0": 0, "timeout=3600": limit, "timeout=x": limit,
	} {
		var h head
		if err := h.parseResponse([]byte("HTTP/1.1 200 OK\r\nKeep-Alive: "+field+"\r\n\r\n"), 10); err != nil {
			t.Fatal(err)
		}
		if got := h.keepAliveTimeout(limit); got != want {
			t.Errorf("%q: %s, want %s", field, got, want)
		}
	}
}

func TestProtocolsOfUpstreamsAreBounded(t *testing.T) {
	t.Parallel()
	var p protocols
	for i := range maxProtocols + 10 {
		p.set(Upstream{Host: testHost, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)}), 443)}, protoH2)
	}
	if n := len(p.chosen); n > maxProtocols {
		t.Errorf("%d are remembered", n)
	}
}
