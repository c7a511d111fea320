package exchange

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/echo"
)

// echoing is members whose secrets are looked for, as those of real pools are.
type echoing struct{ *members }

func (e echoing) Acquire(ctx context.Context, r pool.Route, tried []string) (pool.Lease, error) {
	l, err := e.members.Acquire(ctx, r, tried)
	l.Echo = echo.New([]echo.Secret{{Value: []byte("the-real-secret-of-" + l.Member), Placeholder: []byte("placeholder")}})
	return l, err
}

// TestALimitInTheMidstOfAStream judges the member before the client reads of it, whatever the framing and the coding; the
// client gets what came.
func TestALimitInTheMidstOfAStream(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		coding string
		pieces []string
		judged bool
	}{
		"failed":           {"", []string{created, outputStream, failedStream}, true},
		"split":            {"", []string{created, outputStream, failedStream[:9], failedStream[9:40], failedStream[40:]}, true},
		"at once":          {"", []string{created + outputStream + failedStream}, true},
		"no blank line":    {"", []string{outputStream, strings.TrimSpace(refusedStream)}, true},
		"gzip":             {"gzip", []string{created, outputStream, failedStream}, true},
		"br":               {"br", []string{created, outputStream, failedStream}, true},
		"zstd":             {"zstd", []string{created, outputStream, failedStream}, true},
		"gzip, at once":    {"gzip", []string{created + outputStream + failedStream}, true},
		"overloaded":       {"", []string{outputStream, busyStream}, false},
		"good":             {"", []string{created, outputStream, outputStream}, false},
		"what models say":  {"", []string{outputStream, strings.Replace(outputStream, "hi", `\n\nevent: error\ndata: {\"error\":{\"code\":429}}\n\n`, 1)}, false},
		"gzip, overloaded": {"gzip", []string{outputStream, busyStream}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachProto(t, func(t *testing.T, h2 bool, protos []string) {
				var sent strings.Builder
				pools := newMembers("a", "b")
				b := newBench(t, setup{
					pools: pools, protos: protos,
					change: func(o *Options) { o.Pools, o.EventTimeout = echoing{pools}, 20*time.Second },
					handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Content-Type", "text/event-stream")
						w.Header().Set("X-Codex-Primary-Used-Percent", "100")
						z := io.Writer(io.MultiWriter(&sent, w))
						flush := func() {}
						if c.coding != "" {
							w.Header().Set("Content-Encoding", c.coding)
							f := flusher(c.coding, z)
							z, flush = f, func() { _ = f.Flush() }
						}
						for _, p := range c.pieces {
							_, _ = io.WriteString(z, p)
							flush()
							_ = http.NewResponseController(w).Flush()
							time.Sleep(5 * time.Millisecond)
						}
					}),
				})
				resp, body := ask(t, b.client(h2), newRequest("POST", strings.NewReader("{}")))
				if resp.StatusCode != 200 || body != sent.String() {
					t.Errorf("%d, %d bytes of %d", resp.StatusCode, len(body), sent.Len())
				}
				pools.mu.Lock()
				defer pools.mu.Unlock()
				last := pools.answers[len(pools.answers)-1]
				if pools.out["a"] != c.judged || last.Begun.IsZero() == c.judged || len(pools.answers) != map[bool]int{true: 2, false: 1}[c.judged] {
					t.Fatalf("judged %t, by %d answers, the last %+v", pools.out["a"], len(pools.answers), last)
				}
				if c.judged && (last.Header.Get("X-Codex-Primary-Used-Percent") != "100" || pools.told != 1) {
					t.Errorf("judged with %v, told %d times", last.Header, pools.told)
				}
			})
		})
	}
}

// TestALimitAfterTheOpening has a refusal come when its stream's opening is out already, and the connection fail behind it,
// without the blank line that ends an event: the member is judged by it all the same.
func TestALimitAfterTheOpening(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		refusal := strings.TrimSpace(failedStream) // and no blank line behind it
		read := make(chan struct{})
		pools := newMembers("a", "b")
		b := newBench(t, setup{
			pools: pools, protos: protos, change: func(o *Options) { o.EventTimeout = 10 * time.Millisecond },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, created)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-read:
					_, _ = io.WriteString(w, refusal)
					_ = http.NewResponseController(w).Flush()
					select {
					case <-read: // twice: the client has all of it
					case <-r.Context().Done():
					}
					panic(http.ErrAbortHandler)
				case <-r.Context().Done():
				}
			}),
		})
		resp, err := b.client(h2).Get("https://" + testHost + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		begun := make([]byte, len(created))
		if _, err := io.ReadFull(resp.Body, begun); err != nil || string(begun) != created {
			t.Fatalf("%q, %v", begun, err)
		}
		read <- struct{}{}
		more := make([]byte, len(refusal))
		if _, err := io.ReadFull(resp.Body, more); err != nil || string(more) != refusal {
			t.Fatalf("%q, %v", more, err)
		}
		read <- struct{}{}
		if n, err := resp.Body.Read(more); n > 0 || err == nil || err == io.EOF {
			t.Errorf("%d bytes, %v behind what was cut off", n, err)
		}
		pools.mu.Lock()
		defer pools.mu.Unlock()
		if !pools.out["a"] || pools.told != 1 {
			t.Errorf("judged %t, told %d times", pools.out["a"], pools.told)
		}
	})
}
