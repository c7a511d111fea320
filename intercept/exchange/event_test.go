package exchange

import (
	"cmp"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

const (
	goodStream    = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n"
	refusedStream = "event: error\ndata: {\"type\":\"error\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}\n\n"

	codexLimits   = "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\",\"rate_limits\":{\"primary\":{\"used_percent\":40}}}\n\n"
	created       = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"error\":null,\"output\":[]}}\n\n"
	inProgress    = "data: {\"response\":{\"id\":\"r\",\"error\":null},\"type\": \"response.in_progress\"}\n\n"
	failedStream  = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}}\n\n"
	outputStream  = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\n"
	ping          = "event: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n"
	messageStart  = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[]}}\n\n"
	limitedStream = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"m\"}}\n\n"
	busyStream    = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n"
)

// TestAStreamThatBeginsWithARefusal is judged by the first event that is not its opening: nothing
// of it has gone to the client, so the request goes on with the next member.
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
	opening := func(bytes int) string {
		return strings.Replace(created, "[]", "[\""+strings.Repeat("x", bytes)+"\"]", 1)
	}
	long := stream(opening(pool.MaxFirstEvent), failedStream)
	long.pause = 100 * time.Millisecond
	held := stream(created, failedStream)
	held.pause = 600 * time.Millisecond
	for name, c := range map[string]struct {
		a, b  answer
		want  string // the body; "" is the pool's own 429
		asked int

		provider string // "": openai
	}{
		"refused":               {a: refused, b: stream(goodStream), want: goodStream, asked: 2},
		"refused in pieces":     {a: stream(refusedStream[:7], refusedStream[7:40], refusedStream[40:]), b: stream(goodStream), want: goodStream, asked: 2},
		"both refused":          {a: refused, b: refused, want: "", asked: 2},
		"good":                  {a: stream(goodStream), b: refused, want: goodStream, asked: 1},
		"good in pieces":        {a: stream(goodStream[:11], goodStream[11:60], goodStream[60:]), b: refused, want: goodStream, asked: 1},
		"refused later":         {a: stream(goodStream, refusedStream), b: refused, want: goodStream + refusedStream, asked: 1},
		"after comments":        {a: stream(": alive\n\n", ": alive\n\n", refusedStream), b: stream(goodStream), want: goodStream, asked: 2},
		"good after a comment":  {a: stream(": alive\n\n", goodStream), b: refused, want: ": alive\n\n" + goodStream, asked: 1},
		"a comment alone":       {a: stream(": alive\n\n"), b: refused, want: ": alive\n\n", asked: 1},
		"too late to be judged": {a: slow, b: refused, want: refusedStream, asked: 1},
		"in a coding":           {a: coded, b: refused, want: refusedStream, asked: 1},
		"no event stream":       {a: text, b: refused, want: refusedStream, asked: 1},
		"empty":                 {a: stream(), b: refused, want: "", asked: 1},
		"refused and cut off":   {a: stream(strings.TrimSpace(refusedStream)), b: stream(goodStream), want: goodStream, asked: 2},
		"longer than is looked at": {
			a: stream("data: " + strings.Repeat("x", pool.MaxFirstEvent) + "\n\n" + refusedStream), b: refused,
			want: "data: " + strings.Repeat("x", pool.MaxFirstEvent) + "\n\n" + refusedStream, asked: 1,
		},

		"openai, after its opening":       {a: stream(created, inProgress, failedStream), b: stream(goodStream), want: goodStream, asked: 2},
		"openai, all at once":             {a: stream(created + inProgress + failedStream), b: stream(created + outputStream), want: created + outputStream, asked: 2},
		"openai, in pieces":               {a: stream(created[:30], created[30:]+inProgress[:50], inProgress[50:]+failedStream[:9], failedStream[9:]), b: stream(goodStream), want: goodStream, asked: 2},
		"openai, an error event":          {a: stream(created, refusedStream), b: stream(goodStream), want: goodStream, asked: 2},
		"openai, both":                    {a: stream(created, failedStream), b: stream(created, failedStream), asked: 2},
		"openai, good":                    {a: stream(created, inProgress, outputStream, outputStream), b: refused, want: created + inProgress + outputStream + outputStream, asked: 1},
		"openai, after output":            {a: stream(created, outputStream, failedStream), b: refused, want: created + outputStream + failedStream, asked: 1},
		"openai, long instructions":       {a: stream(opening(40<<10), opening(40<<10)+failedStream), b: stream(goodStream), want: goodStream, asked: 2},
		"openai, long and good":           {a: stream(opening(40<<10)+opening(40<<10), goodStream), b: refused, want: opening(40<<10) + opening(40<<10) + goodStream, asked: 1},
		"openai, its opening alone":       {a: stream(created, inProgress), b: refused, want: created + inProgress, asked: 1},
		"openai, cut off":                 {a: stream(created, strings.TrimSpace(failedStream)), b: stream(goodStream), want: goodStream, asked: 2},
		"openai, too late":                {a: held, b: refused, want: created + failedStream, asked: 1},
		"openai, opening is too long":     {a: long, b: refused, want: strings.Join(long.pieces, ""), asked: 1},
		"openai, no opening of its own":   {a: stream(messageStart, limitedStream), b: refused, want: messageStart + limitedStream, asked: 1},
		"codex":                           {a: stream(codexLimits, created, failedStream), b: stream(goodStream), want: goodStream, asked: 2, provider: "codex"},
		"anthropic, after a ping":         {a: stream(ping, ping, limitedStream), b: stream(goodStream), want: goodStream, asked: 2, provider: "anthropic"},
		"anthropic, after its opening":    {a: stream(messageStart, ping, limitedStream), b: stream(goodStream), want: goodStream, asked: 2, provider: "anthropic"},
		"anthropic, good":                 {a: stream(messageStart, ping, goodStream), b: refused, want: messageStart + ping + goodStream, asked: 1, provider: "anthropic"},
		"anthropic, overloaded":           {a: stream(messageStart, busyStream), b: refused, want: messageStart + busyStream, asked: 1, provider: "anthropic"},
		"openrouter, as openai":           {a: stream(": OPENROUTER PROCESSING\n\n", created, failedStream), b: stream(goodStream), want: goodStream, asked: 2, provider: "openrouter"},
		"openrouter, as anthropic":        {a: stream(messageStart, limitedStream), b: stream(goodStream), want: goodStream, asked: 2, provider: "openrouter"},
		"another provider has no opening": {a: stream(created, failedStream), b: refused, want: created + failedStream, asked: 1, provider: "gemini"},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(map[bool]string{true: "h2 ", false: "h1 "}[h2]+name, func(t *testing.T) {
				t.Parallel()
				protos := []string{"http/1.1"}
				if h2 {
					protos = []string{"h2", "http/1.1"}
				}
				asked := make(chan struct{}, 8)
				route := &pool.Route{Pool: "p", Host: testHost, Port: 443, Provider: cmp.Or(c.provider, "openai")}
				patience := 20 * time.Second // on a busy machine a piece takes its time, too
				if strings.Contains(name, "too late") {
					patience = 200 * time.Millisecond
				}
				b := newBench(t, setup{
					route: route, protos: protos, change: func(o *Options) { o.EventTimeout = patience },
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
				if status := resp.StatusCode; c.want == "" && c.asked > 1 {
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

// TestAnOpeningIsNotHeldForLong has a model think after its stream's opening: the client has that before anything more comes.
func TestAnOpeningIsNotHeldForLong(t *testing.T) {
	t.Parallel()
	eachProto(t, func(t *testing.T, h2 bool, protos []string) {
		const opening, rest = created + inProgress, outputStream + failedStream
		read := make(chan struct{})
		b := newBench(t, setup{
			protos: protos, change: func(o *Options) { o.EventTimeout = 200 * time.Millisecond },
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, opening)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-read:
					_, _ = io.WriteString(w, rest)
				case <-r.Context().Done():
				}
			}),
		})
		resp, err := b.client(h2).Get("https://" + testHost + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		begun := make([]byte, len(opening))
		if _, err := io.ReadFull(resp.Body, begun); err != nil || string(begun) != opening {
			t.Fatalf("%q, %v", begun, err)
		}
		close(read)
		if more, err := io.ReadAll(resp.Body); err != nil || string(more) != rest {
			t.Errorf("%q, %v", more, err)
		}
	})
}
