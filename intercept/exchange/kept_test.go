package exchange

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestOpenStreamsHoldNoBudget: what was kept of a request is given back when its answer
// begins, not when that ends. Many streams that say nothing would otherwise leave a later
// request nothing to be kept in, and its agent would see a refusal with a healthy member.
func TestOpenStreamsHoldNoBudget(t *testing.T) {
	t.Parallel()
	const streams, size, budget = 40, 200 << 10, 1 << 20
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		end := make(chan struct{})
		b := newBench(t, setup{
			protos: protos, change: func(o *Options) { o.ReplayBudget = budget },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, err := io.Copy(io.Discard, r.Body)
				if n != r.ContentLength || err != nil {
					t.Errorf("%s got %d bytes of %d, %v", member(r), n, r.ContentLength, err)
				}
				if r.URL.Path == "/refused" && member(r) == "a" {
					refuse(w)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, "data: begun\n\n")
				if r.URL.Path == "/stream" {
					_ = http.NewResponseController(w).Flush()
					<-end
				}
				io.WriteString(w, "data: over\n\n")
			}),
		})
		post := func(path string) *http.Request {
			r := newRequest("POST", bytes.NewReader(make([]byte, size)))
			r.URL.Path = path
			return r
		}
		c := b.client(h2)
		var open []*http.Response
		for range streams {
			resp, err := c.Do(post("/stream"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			open = append(open, resp)
		}
		eventually(t, "nothing is kept of streams that are open", func() bool { return b.x.Snapshot().ReplayBytes == 0 })
		if resp, body := ask(t, c, post("/refused")); resp.StatusCode != 200 {
			t.Errorf("with %d open streams a refused request was answered %d %q: %+v", streams, resp.StatusCode, body, b.x.Snapshot())
		}
		close(end)
		for _, resp := range open {
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "data: begun\n\ndata: over\n\n" {
				t.Errorf("a stream ended as %q, %v", body, err)
			}
		}
	})
}

// TestOneTargetLeavesRoomForOthers: a target that keeps whatever it is let keep does not make another one's requests
// such as cannot be sent again.
func TestOneTargetLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	const budget = 4 << 20
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		b := newBench(t, setup{
			protos: protos, change: func(o *Options) { o.ReplayBudget = budget },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if member(r) == "a" {
					refuse(w)
				}
			}),
		})
		var greedy Share
		took := int64(0)
		for b.x.reserve(&greedy, block64k) {
			took += block64k
		}
		if took < budget/2 {
			t.Errorf("a target alone may keep %d bytes of %d", took, budget)
		}
		if resp, body := ask(t, b.client(h2), newRequest("POST", bytes.NewReader(make([]byte, budget/20)))); resp.StatusCode != 200 {
			t.Errorf("beside it another one's request was answered %d %q: %+v", resp.StatusCode, body, b.x.Snapshot())
		}
		eventually(t, "what was kept is given back", func() bool { return b.x.Snapshot().ReplayBytes == took && b.share.kept.Load() == 0 })
		b.x.release(&greedy, took)
		if b.x.Snapshot().ReplayBytes != 0 || greedy.kept.Load() != 0 {
			t.Error("it adds up wrongly")
		}
	})
}

// TestWhatIsNotKeptIsNotSentAgain: not in part either, and nothing of it takes room once it is lost.
func TestWhatIsNotKeptIsNotSentAgain(t *testing.T) {
	t.Parallel()
	const budget, size = 1 << 20, 300 << 10
	b := newBench(t, setup{raw: func(int, net.Conn) {}, change: func(o *Options) { o.ReplayBudget = budget }})
	var mine, others Share
	for b.x.reserve(&others, block4k) {
		continue
	}
	k := &kept{x: b.x, share: &mine, src: strings.NewReader(strings.Repeat("x", size))}
	first, piece := k.reader(), make([]byte, block64k)
	for b.x.reserve(&mine, block4k) { // the last of the room, which others leave
		continue
	}
	if n, err := first.Read(piece); n == 0 || err != nil || k.replayable() {
		t.Fatalf("%d bytes, %v, with no room to keep them in", n, err)
	}
	b.x.release(&others, others.kept.Load())
	b.x.release(&mine, mine.kept.Load())
	n, err := io.Copy(io.Discard, first)
	if n+block64k != size || err != nil || k.replayable() {
		t.Errorf("the first attempt got %d bytes besides, %v", n, err)
	}
	if n := b.x.Snapshot().ReplayBytes; n != 0 {
		t.Errorf("%d bytes are kept of what cannot be sent again", n)
	}
	if n, err := k.reader().Read(piece); n != 0 || err != io.ErrUnexpectedEOF {
		t.Errorf("a second attempt got %d bytes, %v", n, err)
	}
}

// TestTwoWayStreamsHoldNoBudget: the answer begins while the body still comes, pauses
// and goes on, in both directions; with another member refused before.
func TestTwoWayStreamsHoldNoBudget(t *testing.T) {
	t.Parallel()
	const piece = 100 << 10
	for _, refused := range []bool{false, true} {
		t.Run(fmt.Sprintf("refused=%v", refused), func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				var asked atomic.Int32
				b := newBench(t, setup{protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					control := http.NewResponseController(w)
					_ = control.EnableFullDuplex()
					p := make([]byte, piece)
					for n := byte(0); ; n++ {
						if _, err := io.ReadFull(r.Body, p); err == io.EOF {
							return
						} else if err != nil || !bytes.Equal(p, bytes.Repeat([]byte{n}, piece)) {
							t.Errorf("%s: piece %d came as %x..., %v", member(r), n, p[:8], err)
							return
						}
						if asked.Add(1) == 1 && refused {
							refuse(w)
							return
						}
						w.Write([]byte{n})
						_ = control.Flush()
					}
				})})
				src, sink := io.Pipe()
				r := newRequest("POST", src)
				answered := make(chan *http.Response, 1)
				go func() {
					resp, err := b.client(h2).Do(r)
					if err != nil {
						t.Error(err)
					}
					answered <- resp
				}()
				sink.Write(make([]byte, piece))
				resp := <-answered
				if resp == nil {
					return
				}
				defer resp.Body.Close()
				for n := byte(0); n < 30; n++ {
					if n > 0 {
						sink.Write(bytes.Repeat([]byte{n}, piece))
					}
					var echo [1]byte
					if _, err := io.ReadFull(resp.Body, echo[:]); err != nil || echo[0] != n {
						t.Fatalf("piece %d: got %d, %v", n, echo[0], err)
					}
					if n%10 == 0 {
						eventually(t, "nothing is kept of a stream that is open", func() bool { return b.x.Snapshot().ReplayBytes == 0 })
					}
				}
				sink.Close()
				if rest, err := io.ReadAll(resp.Body); len(rest) != 0 || err != nil {
					t.Errorf("at the end: %q, %v", rest, err)
				}
			})
		})
	}
}

// TestBodiesStayWhole sends bodies of any length in any pieces to upstreams that refuse
// and answer at any point of them: whoever answers has had every byte in its place.
func TestBodiesStayWhole(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		var mu sync.Mutex
		sums := map[string]string{} // of what the upstream that answered has read
		b := newBench(t, setup{
			pools: newMembers("a", "b", "c"), protos: protos, change: func(o *Options) { o.ReplayBudget = 16 << 20 },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var early int64
				var refusals string
				fmt.Sscan(r.Header.Get("X-Plan"), &early, &refusals)
				h := sha256.New()
				_, _ = io.CopyN(h, r.Body, early)
				if strings.Contains(refusals, member(r)) {
					refuse(w)
					return
				}
				control := http.NewResponseController(w)
				_ = control.EnableFullDuplex()
				w.Header().Set("X-By", member(r))
				_ = control.Flush()
				if _, err := io.Copy(h, r.Body); err != nil {
					t.Errorf("%s: %v", member(r), err)
				}
				mu.Lock()
				sums[r.URL.Path] = string(h.Sum(nil))
				mu.Unlock()
				io.WriteString(w, "done")
			}),
		})
		c := b.client(h2)
		for i := range 60 {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			payload := make([]byte, rnd.IntN(1<<(6+rnd.IntN(16))))
			for j := range payload {
				payload[j] = byte(rnd.Uint32())
			}
			src, sink := io.Pipe()
			go func() {
				for rest := payload; len(rest) > 0; {
					n := min(1+rnd.IntN(1<<rnd.IntN(18)), len(rest))
					if len(payload) < 1<<14 || rnd.IntN(8) == 0 {
						time.Sleep(time.Duration(rnd.IntN(2000)) * time.Microsecond)
					}
					if _, err := sink.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
				sink.Close()
			}()
			r := newRequest("POST", src)
			r.URL.Path = fmt.Sprintf("/%d", i)
			if i%3 == 0 {
				r.ContentLength = int64(len(payload))
			}
			refusals := []string{"none", "a", "ab"}[i%3]
			r.Header.Set("X-Plan", fmt.Sprint(rand.New(rand.NewPCG(2, uint64(i))).IntN(len(payload)+1), " ", refusals))
			resp, body := ask(t, c, r)
			want := sha256.Sum256(payload)
			mu.Lock()
			same := sums[r.URL.Path] == string(want[:])
			mu.Unlock()
			if resp.StatusCode != 200 || body != "done" || !same {
				t.Errorf("body %d of %d bytes, %s refuse: %d %q by %s, whole %v", i, len(payload), refusals, resp.StatusCode, body, resp.Header.Get("X-By"), same)
			}
			eventually(t, "nothing is kept", func() bool { return b.x.Snapshot().ReplayBytes == 0 })
			b.pools.restore()
		}
	})
}
