package exchange

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

const (
	goodStream    = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n"
	refusedStream = "event: error\ndata: {\"type\":\"error\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}\n\n"
)

// TestAStreamThatBeginsWithARefusal is judged by its first event: nothing of it has gone
// to the client, so the request goes on with the next member.
func TestAStreamThatBeginsWithARefusal(t *testing.T) {
	t.Parallel()
	type answer struct {
		kind, encoding string
		pieces         []string // flushed one by one, the second and later after a pause
		pause          time.Duration
	}
	stream := func(pieces ...string) answer { return answer{kind: "text/event-stream; charset=utf-8", pieces: pieces} }
	refused := stream(refusedStream)
	slow := stream(refusedStream[:20], refusedStream[20:])
	slow.pause = 600 * time.Millisecond
	coded := refused
	coded.encoding = "x-unknown"
	text := refused
	text.kind = "text/plain"
	for name, c := range map[string]struct {
		a, b  answer
		want  string // the body; "" is the pool's own 429
		asked int
	}{
		"refused":               {refused, stream(goodStream), goodStream, 2},
		"refused in pieces":     {stream(refusedStream[:7], refusedStream[7:40], refusedStream[40:]), stream(goodStream), goodStream, 2},
		"both refused":          {refused, refused, "", 2},
		"good":                  {stream(goodStream), refused, goodStream, 1},
		"good in pieces":        {stream(goodStream[:11], goodStream[11:60], goodStream[60:]), refused, goodStream, 1},
		"refused later":         {stream(goodStream, refusedStream), refused, goodStream + refusedStream, 1},
		"after comments":        {stream(": alive\n\n", ": alive\n\n", refusedStream), stream(goodStream), goodStream, 2},
		"good after a comment":  {stream(": alive\n\n", goodStream), refused, ": alive\n\n" + goodStream, 1},
		"a comment alone":       {stream(": alive\n\n"), refused, ": alive\n\n", 1},
		"too late to be judged": {slow, refused, refusedStream, 1},
		"in a coding":           {coded, refused, refusedStream, 1},
		"no event stream":       {text, refused, refusedStream, 1},
		"empty":                 {stream(), refused, "", 1},
		"refused and cut off":   {stream(strings.TrimSpace(refusedStream)), stream(goodStream), goodStream, 2},
		"longer than is looked at": {
			stream("data: " + strings.Repeat("x", 20<<10) + "\n\n" + refusedStream), refused,
			"data: " + strings.Repeat("x", 20<<10) + "\n\n" + refusedStream, 1,
		},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(map[bool]string{true: "h2 ", false: "h1 "}[h2]+name, func(t *testing.T) {
				t.Parallel()
				protos := []string{"http/1.1"}
				if h2 {
					protos = []string{"h2", "http/1.1"}
				}
				asked := make(chan struct{}, 8)
				b := newBench(t, setup{
					protos: protos, change: func(o *Options) { o.EventTimeout = 200 * time.Millisecond },
					handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						asked <- struct{}{}
						body, err := io.ReadAll(r.Body)
						if err != nil || string(body) != "the request" {
							t.Errorf("body %q, %v", body, err)
						}
						say := c.a
						if r.Header.Get("Authorization") == "Bearer "+secretOf("b") {
							say = c.b
						}
						w.Header().Set("Content-Type", say.kind)
						if say.encoding != "" {
							w.Header().Set("Content-Encoding", say.encoding)
						}
						w.WriteHeader(200)
						_ = http.NewResponseController(w).Flush()
						for i, piece := range say.pieces {
							if i > 0 {
								time.Sleep(max(say.pause, 5*time.Millisecond))
							}
							_, _ = io.WriteString(w, piece)
							_ = http.NewResponseController(w).Flush()
						}
					}),
				})
				resp, err := b.client(h2).Post("https://"+testHost+"/", "text/plain", strings.NewReader("the request"))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				if status := resp.StatusCode; name == "both refused" {
					if status != 429 || resp.Header.Get("Sluice-Pool") == "" {
						t.Errorf("status %d, %s", status, body)
					}
				} else if status != 200 || string(body) != c.want {
					t.Errorf("status %d, body %.200q", status, body)
				}
				if len(asked) != c.asked {
					t.Errorf("the upstream was asked %d times, want %d", len(asked), c.asked)
				}
			})
		}
	}
}
