package exchange

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// TestARefusalInACompressedStream is found as in any other: Anthropic and OpenRouter compress their
// events for whoever accepts that, as the SDKs do. The next member's stream comes as it was sent.
func TestARefusalInACompressedStream(t *testing.T) {
	t.Parallel()
	long := strings.Replace(created, "[]", "[\""+strings.Repeat("instructions ", 3000)+"\"]", 1)
	for _, coding := range []string{"gzip", "deflate", "br", "zstd"} {
		for name, c := range map[string]struct {
			pieces []string // of a's stream, flushed one by one
			asked  int32
		}{
			"at once":           {[]string{created + inProgress + failedStream}, 2},
			"event by event":    {[]string{created, inProgress, failedStream}, 2},
			"long instructions": {[]string{long, long, failedStream}, 2},
			"good":              {[]string{created, outputStream, failedStream}, 1},
			"endless opening":   {[]string{strings.Replace(created, "[]", "[\""+strings.Repeat("x", pool.MaxFirstEvent)+"\"]", 1), failedStream}, 1},
		} {
			t.Run(coding+", "+name, func(t *testing.T) {
				t.Parallel()
				eachProto(t, func(t *testing.T, h2 bool, protos []string) {
					var n atomic.Int32
					var sent [2]bytes.Buffer
					// None of these waits for it: what there is decides.
					patient := func(o *Options) { o.EventTimeout = 20 * time.Second }
					b := newBench(t, setup{protos: protos, change: patient, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						i, pieces := 0, c.pieces
						if n.Add(1); member(r) == "b" {
							i, pieces = 1, []string{created, outputStream}
						}
						w.Header().Set("Content-Type", "text/event-stream")
						w.Header().Set("Content-Encoding", coding)
						z := flusher(coding, io.MultiWriter(&sent[i], w))
						for _, p := range pieces {
							_, _ = io.WriteString(z, p)
							_ = z.Flush()
							_ = http.NewResponseController(w).Flush()
							time.Sleep(5 * time.Millisecond)
						}
					})})
					resp, body := ask(t, b.client(h2), newRequest("POST", strings.NewReader("{}")))
					if want := sent[c.asked-1].String(); resp.StatusCode != 200 || body != want || n.Load() != c.asked {
						t.Errorf("asked %d times, want %d: %d, %d bytes of %d", n.Load(), c.asked, resp.StatusCode, len(body), len(want))
					}
				})
			})
		}
	}
}

// TestACompressedOpeningIsNotHeldForLong is the same for one of which nothing can be made before it ends.
func TestACompressedOpeningIsNotHeldForLong(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		read := make(chan struct{})
		begin := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff} // RFC 1952: a member's head
		b := newBench(t, setup{
			protos: protos, change: func(o *Options) { o.EventTimeout = 100 * time.Millisecond },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(begin)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-read:
				case <-r.Context().Done():
				}
			}),
		})
		resp, err := b.client(h2).Get("https://" + testHost + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got := make([]byte, len(begin))
		if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, begin) {
			t.Fatalf("%x, %v", got, err)
		}
		close(read)
	})
}

// TestARefusalInADocument is one that came with 200: only those providers' documents are looked at that say so in them.
func TestARefusalInADocument(t *testing.T) {
	t.Parallel()
	const good = `{"choices":[{"message":{"content":"an \"error\""}}]}`
	const graph = `{"errors":[{"type":"RATE_LIMITED","message":"API rate limit exceeded for user ID 1."}]}`
	const relayed = `{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"try again in 90 s"}},"user_id":"u"}`
	for name, c := range map[string]struct {
		provider, path, body string
		asked                int32
	}{
		"openrouter":                 {"openrouter", "/api/v1/chat/completions", relayed, 2},
		"openrouter, alive before":   {"openrouter", "/api/v1/chat/completions", strings.Repeat(" \n", 100) + relayed, 2},
		"openrouter, in a choice":    {"openrouter", "/api/v1/chat/completions", `{"id":"g","choices":[{"finish_reason":"error","message":{"content":""},"error":{"code":429,"message":"m"}}]}`, 2},
		"openrouter, good":           {"openrouter", "/api/v1/chat/completions", good, 1},
		"openrouter, another error":  {"openrouter", "/api/v1/chat/completions", `{"error":{"code":502,"message":"rate limit"}}`, 1},
		"openrouter, long":           {"openrouter", "/api/v1/chat/completions", `{"text":"` + strings.Repeat("x", 300<<10) + `","error":{"code":429}}`, 1},
		"github":                     {"github", "/graphql", graph, 2},
		"github, its other name":     {"github", "/graphql?x=1", `{"data":null,"errors":[{"type":"RATE_LIMIT","code":"graphql_rate_limit","message":"m"}]}`, 2},
		"github, with data":          {"github", "/graphql", `{"data":{"viewer":{"login":"x"}},"errors":[{"type":"RATE_LIMITED"}]}`, 1},
		"github, another error":      {"github", "/graphql", `{"errors":[{"type":"NOT_FOUND","message":"rate limit"}]}`, 1},
		"github, no GraphQL":         {"github", "/repos/o/r/contents/x", graph, 1},
		"another provider":           {"openai", "/v1/chat/completions", relayed, 1},
		"no provider that is known ": {"", "/graphql", graph, 1},
	} {
		for _, coding := range []string{"", "gzip"} {
			t.Run(name+" "+coding, func(t *testing.T) {
				t.Parallel()
				eachProto(t, func(t *testing.T, h2 bool, protos []string) {
					var n atomic.Int32
					route := &pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: c.provider}
					b := newBench(t, setup{route: route, protos: protos, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						say := c.body
						if n.Add(1); member(r) == "b" {
							say = good
						}
						w.Header().Set("Content-Type", "application/json; charset=utf-8")
						if coding == "" {
							fmt.Fprint(w, say)
							return
						}
						w.Header().Set("Content-Encoding", coding)
						z := gzip.NewWriter(w)
						fmt.Fprint(z, say)
						_ = z.Close()
					})})
					req := newRequest("POST", strings.NewReader("{}"))
					req.URL.Path, req.URL.RawQuery, _ = strings.Cut(c.path, "?")
					resp, body := ask(t, b.client(h2), req)
					want := c.body
					if c.asked == 2 {
						want = good
					}
					if coding != "" {
						body = string(decode([]byte(body), coding, 1<<20))
					}
					if resp.StatusCode != 200 || body != want || n.Load() != c.asked {
						t.Errorf("asked %d times, want %d: %d %.100q", n.Load(), c.asked, resp.StatusCode, body)
					}
				})
			})
		}
	}
}
