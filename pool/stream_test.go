package pool

import (
	"bytes"
	"testing"
	"time"
)

func TestRefusedInStream(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		event   string
		outcome Outcome // OutcomeOther: no refusal
		wait    time.Duration
	}{
		"openai chat":       {`data: {"error":{"message":"Rate limit reached. Please try again in 20s.","type":"requests","code":"rate_limit_exceeded"}}`, OutcomeRateLimited, 20 * time.Second},
		"openai quota":      {`data: {"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}`, OutcomeBilling, 0},
		"openai responses":  {"event: error\n" + `data: {"type":"error","code":"rate_limit_exceeded","message":"Rate limit reached, try again in 1m30s","error":null}`, OutcomeRateLimited, 90 * time.Second},
		"responses failed":  {"event: response.failed\n" + `data: {"type":"response.failed","response":{"status":"failed","error":{"code":"rate_limit_exceeded","message":"Please try again in 11s."}}}`, OutcomeRateLimited, 11 * time.Second},
		"codex":             {"event: error\n" + `data: {"type":"error","error":{"type":"usage_limit_reached","message":"The usage limit has been reached","resets_in_seconds":5400}}`, OutcomeRateLimited, 90 * time.Minute},
		"anthropic":         {"event: error\r\n" + `data: {"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}`, OutcomeRateLimited, 0},
		"gemini":            {`data: {"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34s"}]}}`, OutcomeRateLimited, 34 * time.Second},
		"openrouter":        {`data: {"error":{"code":429,"message":"Rate limit exceeded"}}`, OutcomeRateLimited, 0},
		"a wait beside it":  {`data: {"error":{"code":429,"message":"m"},"retry_after":31,"response":{"instructions":"x"}}`, OutcomeRateLimited, 31 * time.Second},
		"data in two lines": {"data: {\"error\":\ndata: {\"code\":429}}", OutcomeRateLimited, 0},
		"behind a comment":  {": OPENROUTER PROCESSING\n\n" + `data: {"error":{"code":429,"message":"try again in 12 s"}}`, OutcomeRateLimited, 12 * time.Second},
		"bad key":           {`data: {"error":{"type":"invalid_request_error","code":"invalid_api_key","message":"m"}}`, OutcomeAuthFailed, 0},

		"an answer":       {`data: {"choices":[{"delta":{"content":"an \"error\" is not one"}}]}`, OutcomeOther, 0},
		"a later error":   {"data: {\"choices\":[]}\n\n" + `data: {"error":{"code":429}}`, OutcomeOther, 0},
		"a null error":    {`data: {"type":"response.created","response":{"error":null}}`, OutcomeOther, 0},
		"overloaded":      {"event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}`, OutcomeOther, 0},
		"server error":    {`data: {"error":{"type":"server_error","code":500}}`, OutcomeOther, 0},
		"prose":           {`data: {"error":"rate_limit_exceeded"}`, OutcomeOther, 0},
		"a comment":       {`: "error" 429`, OutcomeOther, 0},
		"no JSON":         {`data: "error" 429`, OutcomeOther, 0},
		"nothing":         {"", OutcomeOther, 0},
		"a cut-off event": {`data: {"error":{"code":429`, OutcomeOther, 0},
	} {
		status, body, refused := RefusedInStream([]byte(c.event))
		if refused != (c.outcome != OutcomeOther) {
			t.Errorf("%s: refused %t", name, refused)
			continue
		}
		if !refused {
			continue
		}
		v := Classify(Answer{Status: status, Body: body}, now)
		if v.Outcome != c.outcome || (c.wait != 0 && v.Hint.Wait != c.wait) {
			t.Errorf("%s: %s for %s, want %s for %s", name, v.Outcome, v.Hint.Wait, c.outcome, c.wait)
		}
	}
}

const created = "event: response.created\ndata: {\"type\":\"response.created\"}\n\n"

// TestFirstEventEnd has the event, and nothing before it, whole or not, in whatever pieces the stream comes.
func TestFirstEventEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		provider, before, event, after string
		whole                          bool
	}{
		{},
		{event: "data: x"},
		{event: "data: x\n"},
		{event: "data: x\n\n", whole: true},
		{event: "data: x\r\n\r", after: "\ndata: y\n\n", whole: true},
		{event: "data:\r\r", after: "b", whole: true},
		{before: ": alive\n\n"},
		{before: ": alive\n\n: alive\n\n", event: "data: x\n\n", whole: true},
		{before: "retry: 9\r\n\r", event: "\ndata: x\r\n\r", after: "\n", whole: true},
		{before: "\n\n", event: "data: x\n"},
		{before: "event: x\n\n", event: "data: x\n\n", whole: true},

		{provider: "openai", before: created},
		{provider: "openai", before: created, event: created[:20]},
		{provider: "openai", before: created + created, event: "event: error\ndata: x\n\n", after: created, whole: true},
		{provider: "openai", before: created + ": alive\n\n", event: "data: x\n\n", after: created, whole: true},
		{provider: "openai", event: "data: x\n\n", after: created, whole: true},
		{provider: "openai", before: "data: x\nevent:response.queued\n\n", event: "data: x\n\n", whole: true},
		{provider: "openai", before: "event: message\ndata: {\"type\" : \"response.in_progress\"}\n\n", event: "data: {}\n\n", whole: true},
		{provider: "openai", before: "data: {\"response\":{\"type\":\"x\"},\ndata: \"type\":\"response.created\"}\n\n", event: "data: {}\n\n", whole: true},
		{provider: "openai", event: "event: error\ndata: {\"type\":\"response.created\"}\n\n", whole: true},
		{provider: "openai", event: "data: {\"type\":\"x\",\"of\":{\"type\":\"response.created\"}}\n\n", whole: true},
		{provider: "openai", event: "data: {\"type\":\"response.created\"\n\n", whole: true},
		{provider: "openai", event: "data: {\"type\":[\"response.created\"]}\n\n", whole: true},
		{provider: "openai", event: "data: {\"type\":\"response.created.too\"}\n\n", whole: true},
		{provider: "openai", event: "event: response.created \ndata: x\n\n", whole: true},
		{provider: "codex", before: "event: codex.rate_limits\ndata: {}\n\n" + created, event: "data: {}\n\n", whole: true},
		{provider: "anthropic", before: "event: ping\ndata: {}\n\nevent: message_start\ndata: {}\n\n", event: "data: {}\n\n", whole: true},
		{provider: "anthropic", event: created, whole: true},
		{provider: "gemini", event: created, whole: true},
		{event: created, whole: true},
	} {
		all := c.before + c.event + c.after
		for size := range len(all) + 1 {
			e := NewFirstEvent(c.provider)
			for end := 0; size > 0 && end < len(all); end += size {
				e.Came([]byte(all[:end]))
			}
			if got := e.Came([]byte(all)); got != c.whole || string(e.In([]byte(all))) != c.event {
				t.Errorf("%s: %q in pieces of %d: %t, %q", c.provider, all, size, got, e.In([]byte(all)))
			}
		}
	}
}

// FuzzFirstEvent holds what is found in pieces to what is found at once.
func FuzzFirstEvent(f *testing.F) {
	f.Add("openai", []byte(created+"data: x\n\n"), uint8(1))
	f.Add("openai", []byte("data: {\"type\":\"response.queued\"}\r\n\r\n: x\r\rdata: y\r\r"), uint8(3))
	f.Add("anthropic", []byte("event: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\nevent: error\r\ndata: {}\r\n\r\n"), uint8(7))
	f.Fuzz(func(t *testing.T, provider string, stream []byte, size uint8) {
		once, pieces := NewFirstEvent(provider), NewFirstEvent(provider)
		whole := once.Came(stream)
		for end := 0; size > 0 && end < len(stream); end += int(size) {
			if pieces.Came(stream[:end]) && !whole {
				t.Fatalf("%q: there at %d, and not at the end", stream, end)
			}
		}
		if got := pieces.Came(stream); got != whole || !bytes.Equal(pieces.In(stream), once.In(stream)) {
			t.Fatalf("%q in pieces of %d: %q, and at once %q", stream, size, pieces.In(stream), once.In(stream))
		}
		if event := once.In(stream); whole && len(eventData(event)) == 0 && !bytes.Contains(event, []byte("data:")) {
			t.Fatalf("%q is no event", event)
		}
	})
}

func FuzzRefusedInStream(f *testing.F) {
	f.Add([]byte(`data: {"error":{"code":429}}`))
	f.Add([]byte("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\"}}\n\n"))
	f.Add([]byte(`data: {"error":{"code":"rate_limit_exceeded","message":"Request too large for m"}}`))
	f.Fuzz(func(t *testing.T, event []byte) {
		status, body, refused := RefusedInStream(event)
		if !refused {
			return
		}
		v := Classify(Answer{Status: status, Body: body}, time.Unix(1795455000, 0))
		if !v.Outcome.Refused() && !said(body).request {
			t.Fatalf("%q was taken for a refusal and is judged %s", event, v.Outcome)
		}
	})
}

// TestRefusedInMessage: a message has no header and no status of its own, and so brings them along.
func TestRefusedInMessage(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		message string
		outcome Outcome // OutcomeOther: no refusal
		wait    time.Duration
	}{
		"by its type":         {`{"type":"error","status":429,"error":{"type":"usage_limit_reached","resets_in_seconds":5400}}`, OutcomeRateLimited, 90 * time.Minute},
		"by its headers":      {`{"type":"error","status":429,"error":{"type":"usage_limit_reached"},"headers":{"retry-after":"33","x-a":7,"x-b":null}}`, OutcomeRateLimited, 33 * time.Second},
		"by its status":       {`{"type":"error","status":429,"error":{"message":"Please try again in 20s."}}`, OutcomeRateLimited, 20 * time.Second},
		"by its status code":  {`{"type":"error","status_code":429,"error":{"message":"Please try again in 21s."}}`, OutcomeRateLimited, 21 * time.Second},
		"a realtime response": {`{"type":"response.done","response":{"status":"failed","status_details":{"type":"failed","error":{"type":"tokens","code":"rate_limit_exceeded","message":"Rate limit reached. Please try again in 12s."}}}}`, OutcomeRateLimited, 12 * time.Second},
		"realtime, no credit": {`{"type":"response.done","response":{"status":"failed","status_details":{"type":"failed","error":{"type":"insufficient_quota","code":"insufficient_quota"}}}}`, OutcomeBilling, 0},
		"realtime, a failure": {`{"type":"response.done","response":{"status":"failed","status_details":{"type":"failed","error":{"type":"server_error","code":null}}}}`, OutcomeOther, 0},
		"a bad key":           {`{"type":"error","status":401,"error":{"message":"m"}}`, OutcomeAuthFailed, 0},
		"a failed response":   {`{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"try again in 11s"}}}`, OutcomeRateLimited, 11 * time.Second},
		"overloaded":          {`{"type":"error","status":503,"error":{"type":"server_error"}}`, OutcomeOther, 0},
		"no error":            {`{"type":"response.created","status":429,"response":{"error":null}}`, OutcomeOther, 0},
		"what a model wrote":  {`{"type":"response.output_text.delta","delta":"{\"error\":{\"code\":429}}"}`, OutcomeOther, 0},
		"no JSON":             {`"error" 429`, OutcomeOther, 0},
	} {
		a, refused := RefusedInMessage([]byte(c.message))
		if refused != (c.outcome != OutcomeOther) {
			t.Errorf("%s: refused %t", name, refused)
			continue
		}
		if v := Classify(a, now); refused && (v.Outcome != c.outcome || c.wait != 0 && v.Hint.Wait != c.wait) {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// An answer with what was asked for is none of a refusal, though it says of a part of it that there was none.
func TestADocumentWithDataRefusesNobody(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{
		`{"errors":[{"type":"RATE_LIMIT","message":"API rate limit exceeded"}]}`:                         429,
		`{"data":null,"errors":[{"type":"RATE_LIMIT","message":"API rate limit exceeded"}]}`:             429,
		`{"data":{"a":1,"b":null},"errors":[{"type":"RATE_LIMIT","message":"API rate limit exceeded"}]}`: 0,
		`{"choices":[{"error":{"code":429,"message":"m"}}]}`:                                             429,
		`{"errors":[{"type":"NOT_FOUND","message":"m"}]}`:                                                0,
	} {
		if status, _, refused := RefusedInDocument([]byte(body)); status != want || refused != (want != 0) {
			t.Errorf("%s: %d, want %d", body, status, want)
		}
	}
}
