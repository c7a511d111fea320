package pool

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Beginnings of answers, and refusals that came behind them.
const (
	chatDelta      = `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}` + "\n\n"
	responsesDelta = "event: response.output_text.delta\n" + `data: {"type":"response.output_text.delta","delta":"hi"}` + "\n\n"
	claudeDelta    = "event: content_block_delta\n" + `data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"hi"}}` + "\n\n"
	geminiDelta    = `data: {"candidates":[{"content":{"parts":[{"text":"hi"}]}}]}` + "\r\n\r\n"

	chatLimit      = `data: {"error":{"message":"Rate limit reached. Please try again in 20s.","type":"requests","code":"rate_limit_exceeded"}}` + "\n\n"
	responsesLimit = "event: response.failed\n" + `data: {"type":"response.failed","response":{"instructions":"x","error":{"code":"rate_limit_exceeded","message":"Please try again in 11s."}}}` + "\n\n"
	codexLimit     = `data: {"type":"error","status_code":429,"error":{"type":"usage_limit_reached","resets_in_seconds":5400}}` + "\n\n"
	codexFailed    = "event: response.failed\n" + `data: {"type":"response.failed","sequence_number":7,"response":{"id":"resp_1","status":"failed","error":{"code":"usage_limit_reached","message":"The usage limit has been reached","plan_type":"plus","resets_in_seconds":5400}}}` + "\n\n"
	claudeLimit    = "event: error\n" + `data: {"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}` + "\n\n"
	claudeBusy     = "event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}` + "\n\n"
	geminiLimit    = "{\n  \"error\": {\n    \"code\": 429,\n    \"status\": \"RESOURCE_EXHAUSTED\",\n    \"details\": [{\"@type\": \"type.googleapis.com/google.rpc.RetryInfo\", \"retryDelay\": \"34s\"}]\n  }\n}\n"
	routerLimit    = `data: {"id":"gen","object":"chat.completion.chunk","provider":"P","error":{"code":429,"message":"m","metadata":{"retry_after_seconds":7}},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}` + "\n\n"
)

// laterIn looks at a stream in pieces that end where ends says.
func laterIn(provider, stream string, size func() int) (status int, body []byte, refused bool) {
	e := NewLaterEvents(provider)
	for rest := []byte(stream); len(rest) > 0 && !refused; {
		n := min(len(rest), size())
		piece := bytes.Clone(rest[:n]) // nothing of it may be kept that is not copied
		status, body, refused = e.Next(piece)
		for i := range piece {
			piece[i] = '\n'
		}
		rest = rest[n:]
	}
	if !refused {
		status, body, refused = e.End()
	}
	return status, body, refused
}

// TestLaterEvents has a refusal found in whatever pieces the stream comes, and nothing else taken for one.
func TestLaterEvents(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)
	quoted := func(s string) string {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, c := range map[string]struct {
		provider, stream string
		outcome          Outcome // OutcomeOther: no refusal
		wait             time.Duration
	}{
		"openai chat":            {"openai", chatDelta + chatLimit + "data: [DONE]\n\n", OutcomeRateLimited, 20 * time.Second},
		"openai responses":       {"openai", responsesDelta + responsesLimit, OutcomeRateLimited, 11 * time.Second},
		"openai, error and fail": {"openai", responsesDelta + "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\"}\n\n" + responsesLimit, OutcomeRateLimited, 11 * time.Second},
		"openai, no names":       {"openai", responsesDelta + strings.TrimPrefix(responsesLimit, "event: response.failed\n"), OutcomeRateLimited, 11 * time.Second},
		"openai, no credit":      {"openai", chatDelta + `data: {"error":{"type":"insufficient_quota","code":"insufficient_quota"}}` + "\n\n", OutcomeBilling, 0},
		"codex":                  {"codex", responsesDelta + codexLimit, OutcomeRateLimited, 90 * time.Minute},
		"codex, by its name":     {"codex", responsesDelta + "event: error\n" + codexLimit, OutcomeRateLimited, 90 * time.Minute},
		"codex, as a response":   {"codex", responsesDelta + codexFailed, OutcomeRateLimited, 90 * time.Minute},
		"codex, an instant":      {"codex", responsesDelta + strings.Replace(codexFailed, `"resets_in_seconds":5400`, `"resets_at":1795458600`, 1), OutcomeRateLimited, time.Hour},
		"openai, error alone":    {"openai", responsesDelta + "event: error\ndata: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"m\",\"sequence_number\":9}\n\n", OutcomeRateLimited, 0},
		"azure":                  {"openai", chatDelta + "data: {\"error\":{\"code\":\"429\",\"message\":\"Please retry after 7 seconds.\"}}\n\n", OutcomeRateLimited, 7 * time.Second},
		"anthropic":              {"anthropic", claudeDelta + claudeLimit, OutcomeRateLimited, 0},
		"anthropic, CRLF":        {"anthropic", strings.ReplaceAll(claudeDelta+claudeLimit, "\n", "\r\n"), OutcomeRateLimited, 0},
		"anthropic, spaces":      {"anthropic", claudeDelta + "event:error\ndata:{ \"type\" : \"error\" , \"error\" : {\"type\":\"rate_limit_error\"}}\n\n", OutcomeRateLimited, 0},
		"anthropic, pings":       {"anthropic", claudeDelta + "event: ping\ndata: {\"type\":\"ping\"}\n\n: alive\n\n" + claudeLimit, OutcomeRateLimited, 0},
		"gemini, as it is":       {"gemini", geminiDelta + geminiLimit, OutcomeRateLimited, 34 * time.Second},
		"gemini, as an event":    {"gemini", geminiDelta + "data: {\"error\": {\"code\": 429, \"status\": \"RESOURCE_EXHAUSTED\"}}\r\n\r\n", OutcomeRateLimited, 0},
		"gemini, in lines":       {"gemini", geminiDelta + "data: {\ndata:   \"error\": {\"code\": 429}\ndata: }\n\n", OutcomeRateLimited, 0},
		"gemini, in a list":      {"gemini", geminiDelta + "data: [{\"error\": {\"code\": 429}}]\n\n", OutcomeRateLimited, 0},
		"openrouter":             {"openrouter", chatDelta + routerLimit + "data: [DONE]\n\n", OutcomeRateLimited, 7 * time.Second},
		"openrouter, a choice's": {"openrouter", chatDelta + `data: {"choices":[{"index":0,"delta":{},"finish_reason":"error","error":{"code":429,"message":"m"}}]}` + "\n\n", OutcomeRateLimited, 0},
		"openrouter, anthropic":  {"openrouter", claudeDelta + claudeLimit, OutcomeRateLimited, 0},
		"openrouter, responses":  {"openrouter", responsesDelta + "event: response.error\ndata: {\"type\":\"response.error\",\"error\":{\"code\":\"rate_limit_exceeded\"}}\n\n", OutcomeRateLimited, 0},
		"a lone CR":              {"anthropic", strings.ReplaceAll(claudeDelta+claudeLimit, "\n", "\r"), OutcomeRateLimited, 0},
		"a lone CR, chat":        {"openai", strings.ReplaceAll(chatDelta+chatLimit+"data: [DONE]\n\n", "\n", "\r"), OutcomeRateLimited, 20 * time.Second},
		"a lone CR, openrouter":  {"openrouter", strings.ReplaceAll(": alive\n\n"+chatDelta+routerLimit, "\n", "\r"), OutcomeRateLimited, 7 * time.Second},
		"a lone CR, then both":   {"openai", strings.ReplaceAll(chatDelta, "\n", "\r") + strings.ReplaceAll(chatDelta+chatLimit, "\n", "\r\n"), OutcomeRateLimited, 20 * time.Second},
		"a lone CR at the end":   {"openai", strings.ReplaceAll(chatDelta, "\n", "\r") + strings.TrimSpace(chatLimit) + "\r", OutcomeRateLimited, 20 * time.Second},
		"another field first":    {"openai", chatDelta + `data: {"id":"c","error":{"code":429,"message":"try again in 9 s"}}` + "\n\n", OutcomeRateLimited, 9 * time.Second},
		"its type behind that":   {"openai", responsesDelta + `data: {"sequence_number":9,"type":"error","code":"rate_limit_exceeded","message":"try again in 9 s"}` + "\r\n\r\n", OutcomeRateLimited, 9 * time.Second},
		"in lines, another":      {"gemini", geminiDelta + "data: {\"id\": 1,\ndata:   \"error\": {\"code\": 429}\ndata: }\n\n", OutcomeRateLimited, 0},
		"a response, no names":   {"openai", chatDelta + `data: {"sequence_number":7,"response":{"error":{"code":"rate_limit_exceeded"}},"type":"response.failed"}` + "\n\n", OutcomeRateLimited, 0},
		"the first event":        {"openai", chatLimit, OutcomeRateLimited, 20 * time.Second},
		"an id before it":        {"openai", chatDelta + "id: 7\nretry: 9\n: x\nevent: message\n" + chatLimit, OutcomeRateLimited, 20 * time.Second},
		"no blank line behind":   {"openai", chatDelta + strings.TrimSpace(chatLimit), OutcomeRateLimited, 20 * time.Second},
		"a long line before":     {"openai", "data: " + strings.Repeat("x", 100<<10) + "\n\n: " + strings.Repeat("y", 100<<10) + "\n\n" + chatLimit, OutcomeRateLimited, 20 * time.Second},
		"long":                   {"openai", responsesDelta + strings.Replace(responsesLimit, `"x"`, quoted(strings.Repeat("do this\n", 4<<10)), 1), OutcomeRateLimited, 11 * time.Second},

		"long behind its error": {"openai", responsesDelta + strings.Replace(responsesLimit, `}}}`, `},"instructions":`+quoted(strings.Repeat("do this\n", 16<<10))+`}}`, 1), OutcomeRateLimited, 11 * time.Second},

		"too long":             {"openai", responsesDelta + strings.Replace(responsesLimit, `"x"`, quoted(strings.Repeat("do this\n", 16<<10)), 1), OutcomeOther, 0},
		"good":                 {"openai", chatDelta + chatDelta + "data: [DONE]\n\n", OutcomeOther, 0},
		"overloaded":           {"anthropic", claudeDelta + claudeBusy, OutcomeOther, 0},
		"server error":         {"openai", chatDelta + "data: {\"error\":{\"type\":\"server_error\",\"code\":500}}\n\n", OutcomeOther, 0},
		"openrouter, 502":      {"openrouter", chatDelta + strings.Replace(routerLimit, "429", "502", 1), OutcomeOther, 0},
		"a key that was taken": {"openai", chatDelta + "data: {\"error\":{\"code\":\"invalid_api_key\"}}\n\n", OutcomeOther, 0},
		"what a model wrote":   {"openai", "data: {\"choices\":[{\"delta\":{\"content\":" + quoted("\n\n"+chatLimit+"\n\n"+claudeLimit) + "}}]}\n\n", OutcomeOther, 0},
		"the same, openrouter": {"openrouter", "data: {\"choices\":[{\"delta\":{\"content\":" + quoted("\n\n"+chatLimit+"\n\n"+claudeLimit) + "}}]}\n\n", OutcomeOther, 0},
		"JSON that it wrote":   {"openrouter", "data: {\"choices\":[{\"delta\":{\"content\":" + quoted(`{"error":{"code":429}}`) + ",\"tool_calls\":[{\"function\":{\"arguments\":" + quoted(`{"error":{"code":429}}`) + "}}]}}]}\n\n", OutcomeOther, 0},
		"a tool's output":      {"openai", "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"item\":{\"type\":\"mcp_call\",\"error\":{\"code\":429,\"type\":\"rate_limit_error\"}}}\n\n", OutcomeOther, 0},
		"a block of that type": {"anthropic", "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"error\":{\"type\":\"rate_limit_error\"}}\n\n", OutcomeOther, 0},
		"within a line":        {"openai", "data: x data: {\"error\":{\"code\":429}}\n\n", OutcomeOther, 0},
		"another field":        {"openai", "x-data: {\"error\":{\"code\":429}}\nid: {\"error\":{\"code\":429}}\n\n", OutcomeOther, 0},
		"a field's own error":  {"openai", "data: {\"id\":1,\"result\":{\"error\":{\"code\":429}},\"error\":null}\n\n", OutcomeOther, 0},
		"another, long":        {"openai", "data: {\"id\":" + quoted(strings.Repeat("x", maxLaterKept)) + ",\"error\":{\"code\":429}}\n\n", OutcomeOther, 0},
		"a lone CR, good":      {"openai", strings.ReplaceAll(chatDelta+chatDelta, "\n", "\r"), OutcomeOther, 0},
		"a comment":            {"openai", ": data: {\"error\":{\"code\":429}}\n\n", OutcomeOther, 0},
		"prose":                {"openai", "event: error\ndata: \"error\" rate_limit_error\n\n", OutcomeOther, 0},
		"limits that are told": {"codex", "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\",\"rate_limits\":{\"limit_reached\":true}}\n\n", OutcomeOther, 0},
		"nothing":              {"openai", "", OutcomeOther, 0},
	} {
		sizes := []int{len(c.stream) + 1, 1, 2, 3, 5, 7, 16, 63, 64, 65, 1000, 16 << 10}
		if len(c.stream) < 1000 {
			for n := range len(c.stream) { // in two
				sizes = append(sizes, -n)
			}
		}
		for _, size := range sizes {
			first := true
			status, body, refused := laterIn(c.provider, c.stream, func() int {
				if size <= 0 && !first {
					return len(c.stream)
				}
				first = false
				return max(size, -size, 1)
			})
			if refused != (c.outcome != OutcomeOther) {
				t.Fatalf("%s, in pieces of %d: refused %t", name, size, refused)
			}
			if !refused {
				continue
			}
			v := Classify(Answer{Status: status, Body: body, At: now, Begun: now}, now)
			if v.Outcome != c.outcome || v.Hint.Wait != c.wait {
				t.Fatalf("%s, in pieces of %d: %s for %s, want %s for %s", name, size, v.Outcome, v.Hint.Wait, c.outcome, c.wait)
			}
		}
	}
}

// TestModelsCannotRefuse has models write whatever they like: within an answer's events it is nothing but that.
func TestModelsCannotRefuse(t *testing.T) {
	t.Parallel()
	parts := []string{chatLimit, claudeLimit, responsesLimit, geminiLimit, routerLimit, codexLimit, "\n\n", "\r\n\r\n", "data: ", "event: error\n", `"`, `\`, `{"error":`, "}", "rate_limit_error", "é\u2028"}
	rapid.Check(t, func(rt *rapid.T) {
		wrote := strings.Join(rapid.SliceOf(rapid.OneOf(rapid.SampledFrom(parts), rapid.String())).Draw(rt, "wrote"), "")
		text, err := json.Marshal(wrote)
		if err != nil {
			rt.Fatal(err)
		}
		event := rapid.SampledFrom([]string{chatDelta, responsesDelta, claudeDelta, geminiDelta}).Draw(rt, "event")
		stream := strings.Repeat(strings.Replace(event, `"hi"`, string(text), 1), 2)
		provider := rapid.SampledFrom([]string{"openai", "anthropic", "codex", "gemini", "openrouter"}).Draw(rt, "provider")
		size := rapid.IntRange(1, 200)
		if _, body, refused := laterIn(provider, stream, func() int { return size.Draw(rt, "piece") }); refused {
			rt.Fatalf("%q was taken for a refusal: %s", stream, body)
		}
		if _, _, refused := laterIn(provider, stream+claudeLimit, func() int { return size.Draw(rt, "piece") }); !refused {
			rt.Fatalf("the refusal behind %q was not seen", stream)
		}
	})
}

// FuzzLaterEvents holds what is found in pieces to what is found at once, and that to the stream's events one by one.
func FuzzLaterEvents(f *testing.F) {
	for _, s := range []string{chatLimit, claudeLimit, responsesLimit, geminiLimit, routerLimit, codexLimit, claudeBusy} {
		f.Add("openai", chatDelta+s, uint8(3))
		f.Add("openrouter", strings.ReplaceAll(responsesDelta+s, "\n", "\r\n"), uint8(7))
		f.Add("gemini", strings.ReplaceAll(chatDelta+s, "\n", "\r"), uint8(5))
	}
	f.Fuzz(func(t *testing.T, provider, stream string, size uint8) {
		status, body, refused := laterIn(provider, stream, func() int { return len(stream) })
		s, b, r := laterIn(provider, stream, func() int { return max(1, int(size)) })
		if s != status || r != refused || !bytes.Equal(b, body) {
			t.Fatalf("%q in pieces of %d: %d %q, and at once %d %q", stream, size, s, b, status, body)
		}
		if !refused {
			return
		}
		var event []byte
		end := "\n"
		if i := strings.IndexAny(stream, "\r\n"); i >= 0 && stream[i] == '\r' && i+1 < len(stream) && stream[i+1] != '\n' {
			end = "\r"
		}
		for _, line := range append(strings.SplitAfter(stream, end), end) {
			if event = append(event, line...); strings.Trim(line, "\r\n") != "" {
				continue
			}
			s, b, r := RefusedInStream(event)
			if !r && provider == "openrouter" {
				s, b, r = RefusedInDocument(eventData(event))
			}
			if r && s == status && bytes.Equal(b, body) {
				return
			}
			event = event[:0]
		}
		t.Fatalf("%q has no event that is a refusal, and %q was found", stream, body)
	})
}

// TestLaterEventsAllocations: an answer's events are passed over without memory, also where they come in pieces.
func TestLaterEventsAllocations(t *testing.T) {
	stream := []byte(strings.Repeat(chatDelta+responsesDelta+claudeDelta, 20))
	for _, provider := range []string{"openai", "openrouter"} {
		e := NewLaterEvents(provider)
		see := func() {
			for p := stream; len(p) > 0; p = p[min(len(p), 50):] {
				if _, _, refused := e.Next(p[:min(len(p), 50)]); refused {
					t.Fatal("refused")
				}
			}
		}
		see()
		if n := testing.AllocsPerRun(100, see); n != 0 {
			t.Errorf("%s: %v allocations", provider, n)
		}
	}
}

// BenchmarkLaterEvents is what a stream's bytes cost, in records of many events and of one.
func BenchmarkLaterEvents(b *testing.B) {
	for name, event := range map[string]string{"chat": chatDelta, "responses": responsesDelta, "anthropic": claudeDelta} {
		for _, provider := range []string{"openai", "openrouter"} {
			for _, size := range []int{len(event), 16 << 10} {
				b.Run(name+"/"+provider+map[bool]string{true: "/one", false: "/many"}[size == len(event)], func(b *testing.B) {
					p := []byte(strings.Repeat(event, max(1, size/len(event))))
					e := NewLaterEvents(provider)
					b.SetBytes(int64(len(p)))
					for b.Loop() {
						e.Next(p)
					}
				})
			}
		}
	}
}

// TestALaterHint counts what the event says from its own time, and what the head says from the head's.
func TestALaterHint(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC) // 1795455000
	codex := http.Header{"X-Codex-Primary-Used-Percent": {"100"}, "X-Codex-Primary-Reset-After-Seconds": {"1000"}}
	bucket := http.Header{"X-Ratelimit-Remaining-Tokens": {"0"}, "X-Ratelimit-Reset-Tokens": {"6m0s"}}
	for name, c := range map[string]struct {
		head  http.Header
		body  string
		after time.Duration
		want  time.Duration
	}{
		"the event's own":                  {nil, `{"error":{"message":"Please try again in 20s."}}`, time.Minute, 20 * time.Second},
		"an instant of its own":            {nil, `{"error":{"type":"usage_limit_reached","resets_at":1795455300}}`, time.Minute, 4 * time.Minute},
		"an instant, by the server's time": {http.Header{"Date": {"Mon, 23 Nov 2026 17:32:00 GMT"}}, `{"error":{"type":"usage_limit_reached","resets_at":1795455300}}`, time.Minute, 2 * time.Minute},
		"the head's":                       {bucket, `{}`, time.Minute, 5 * time.Minute},
		"the head's, over by now":          {bucket, `{}`, 7 * time.Minute, 0},
		"the event's before a bucket":      {bucket, `{"error":{"message":"Please try again in 20s."}}`, time.Minute, 20 * time.Second},
		"a spent window of the head's":     {codex, `{"error":{"message":"Please try again in 20s."}}`, 400 * time.Second, 600 * time.Second},
		"the later of two windows":         {codex, `{"error":{"type":"usage_limit_reached","resets_in_seconds":5400}}`, time.Minute, 90 * time.Minute},
		"the later of two, the head's":     {codex, `{"error":{"type":"usage_limit_reached","resets_in_seconds":60}}`, time.Minute, 940 * time.Second},
		"none":                             {http.Header{"X-Ratelimit-Remaining-Tokens": {"7"}, "X-Ratelimit-Reset-Tokens": {"6m0s"}}, `{}`, time.Minute, 0},
	} {
		at := begun.Add(c.after)
		v := Classify(Answer{Status: 429, Header: c.head, Body: []byte(c.body), At: at, Begun: begun}, at)
		if v.Outcome != OutcomeRateLimited || v.Hint.Wait != c.want {
			t.Errorf("%s: %s, want %s", name, v.Hint.Wait, c.want)
		}
	}
}

// TestTellsOfLimits: what is told of the other fields changes no hint.
func TestTellsOfLimits(t *testing.T) {
	t.Parallel()
	for _, c := range hintCases(t) {
		kept := make(http.Header)
		for name, lines := range c.Headers {
			if TellsOfLimits([]byte(name)) {
				kept[name] = lines
			}
		}
		if whole, got := ParseHint(c.Status, c.Headers, []byte(c.Body), c.Now), ParseHint(c.Status, kept, []byte(c.Body), c.Now); got != whole {
			t.Errorf("%s: %+v, want %+v", c.Name, got, whole)
		}
	}
	for _, name := range []string{"Content-Type", "Set-Cookie", "X-Request-Id", "Openai-Processing-Ms", ""} {
		if TellsOfLimits([]byte(name)) {
			t.Errorf("%q is kept", name)
		}
	}
}
