package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func anthropicDialect() dialect {
	return dialect{
		name: "anthropic", refusal: "anthropic", limits: anthropicLimits, failure: anthropicFailure, event: anthropicEvent,
		unauthorized: anthropicUnauthorized(),
	}
}

// anthropicLimits is what https://docs.anthropic.com/en/api/rate-limits lists
// under "response headers"; resets are RFC 3339.
func anthropicLimits(h http.Header, limit, left int, now time.Time) {
	h.Set("anthropic-organization-id", "00000000-0000-4000-8000-000000000000")
	bucket := func(name string, limit, left int, full time.Duration) {
		h.Set("anthropic-ratelimit-"+name+"-limit", strconv.Itoa(limit))
		h.Set("anthropic-ratelimit-"+name+"-remaining", strconv.Itoa(left))
		h.Set("anthropic-ratelimit-"+name+"-reset", now.Add(full).UTC().Format(time.RFC3339))
	}
	bucket("requests", limit, left, time.Second)
	bucket("tokens", limit*tokensPerRequest, left*tokensPerRequest, 2*time.Second)
	bucket("input-tokens", limit*tokensPerRequest, left*tokensPerRequest, 2*time.Second)
	bucket("output-tokens", limit*tokensPerRequest, left*tokensPerRequest, 2*time.Second)
}

func anthropicFailure(_ int, kind, _, message string) any {
	return map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": message}}
}

func anthropicEvent(_ int, body []byte) (string, []byte) { return "error", body }

func anthropicUnauthorized() refusal {
	return refusal{Status: http.StatusUnauthorized, Body: text(anthropicFailure(401, "authentication_error", "", "invalid x-api-key"))}
}

func anthropicRequests(limit int, wait time.Duration, now time.Time) refusal {
	h := make(http.Header)
	anthropicLimits(h, limit, limit, now)
	h.Set("retry-after", seconds(wait))
	h.Set("anthropic-ratelimit-requests-remaining", "0")
	h.Set("anthropic-ratelimit-requests-reset", now.Add(wait+time.Second-1).UTC().Format(time.RFC3339))
	return refusal{
		Status: http.StatusTooManyRequests, Header: h,
		Body: text(anthropicFailure(429, "rate_limit_error", "", fmt.Sprintf(
			"This request would exceed your organization's rate limit of %d requests per minute. Please reduce the prompt length or try again later.", limit))),
	}
}

// anthropicUnified is the five-hour window of a subscription, spent.
func anthropicUnified(_ int, wait time.Duration, now time.Time) refusal {
	return refusal{
		Status: http.StatusTooManyRequests,
		Header: fields(
			"retry-after", seconds(wait), "x-should-retry", "true",
			"anthropic-ratelimit-unified-status", "rejected", "anthropic-ratelimit-unified-reset", epoch(now.Add(wait)),
			"anthropic-ratelimit-unified-5h-status", "rejected", "anthropic-ratelimit-unified-5h-reset", epoch(now.Add(wait)),
			"anthropic-ratelimit-unified-5h-utilization", "1.0",
			"anthropic-ratelimit-unified-7d-status", "allowed",
			"anthropic-ratelimit-unified-7d-reset", epoch(now.Add(100*time.Hour)),
			"anthropic-ratelimit-unified-7d-utilization", "0.59",
			"anthropic-ratelimit-unified-representative-claim", "five_hour",
			"anthropic-ratelimit-unified-overage-status", "rejected",
			"anthropic-ratelimit-unified-overage-disabled-reason", "out_of_credits"),
		Body: text(anthropicFailure(429, "rate_limit_error", "", "This request would exceed your account's rate limit. Please try again later.")),
	}
}

// anthropicOverloaded says nothing about the credential.
func anthropicOverloaded(int, time.Duration, time.Time) refusal {
	return refusal{Status: 529, Body: text(anthropicFailure(529, "overloaded_error", "", "Overloaded"))}
}

// Where Claude Code asks whether it reaches the API, and who signs its users in: at its first
// start in a terminal it does not go on without.
const (
	helloPath      = "/api/hello"
	helloLoginPath = "/v1/oauth/hello"
)

func hello(v *visit) { v.json(http.StatusOK, map[string]string{"message": "hello"}) }

type messagesRequest struct {
	Model     string            `json:"model"`
	MaxTokens int               `json:"max_tokens"`
	Stream    bool              `json:"stream"`
	Messages  []json.RawMessage `json:"messages"`
}

// messages is POST /v1/messages.
func messages(v *visit) {
	var q messagesRequest
	if !v.read(&q) {
		return
	}
	if q.Model == "" || len(q.Messages) == 0 || q.MaxTokens == 0 {
		v.json(http.StatusBadRequest, anthropicFailure(400, "invalid_request_error", "", "model, max_tokens and messages: Field required"))
		return
	}
	if v.r.Header.Get("Anthropic-Version") == "" {
		v.json(http.StatusBadRequest, anthropicFailure(400, "invalid_request_error", "", "anthropic-version: header is required"))
		return
	}
	v.Header().Set("Request-Id", requestID("req_", v.seq))
	message := map[string]any{
		"id": requestID("msg_", v.seq), "type": "message", "role": "assistant", "model": q.Model,
		"content": []any{}, "stop_reason": nil, "stop_sequence": nil,
		"usage": map[string]any{"input_tokens": 12, "output_tokens": 1},
	}
	if q.Stream {
		v.messageEvents(message)
		return
	}
	message["content"] = []any{map[string]any{"type": "text", "text": v.sim.options.Text}}
	message["stop_reason"] = "end_turn"
	message["usage"] = map[string]any{"input_tokens": 12, "output_tokens": 18}
	v.json(http.StatusOK, message)
}

// messageEvents streams; every event's data repeats its name in "type".
func (v *visit) messageEvents(message map[string]any) {
	st := v.stream()
	send := func(name string, value map[string]any) bool {
		value["type"] = name
		return st.object(name, value)
	}
	if !send("message_start", map[string]any{"message": message}) ||
		!send("content_block_start", map[string]any{"index": 0, "content_block": map[string]any{"type": "text", "text": ""}}) ||
		!send("ping", map[string]any{}) {
		return
	}
	if !v.words(func(word string) bool {
		return send("content_block_delta", map[string]any{"index": 0, "delta": map[string]any{"type": "text_delta", "text": word}})
	}) {
		return
	}
	_ = send("content_block_stop", map[string]any{"index": 0}) &&
		send("message_delta", map[string]any{
			"delta": map[string]any{"stop_reason": "end_turn", "stop_sequence": nil}, "usage": map[string]any{"output_tokens": 18},
		}) &&
		send("message_stop", map[string]any{})
}

// countTokens is POST /v1/messages/count_tokens: four characters a token.
func countTokens(v *visit) {
	var q messagesRequest
	if !v.read(&q) {
		return
	}
	n := 0
	for _, m := range q.Messages {
		n += len(strings.TrimSpace(string(m)))/4 + 1
	}
	v.json(http.StatusOK, map[string]any{"input_tokens": n})
}
