package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// tokensPerRequest is what a request counts for in the token buckets.
const tokensPerRequest = 30

func openAIDialect() dialect {
	return dialect{
		name: "openai", refusal: "openai", limits: openAILimits, failure: openAIFailure, event: openAIEvent,
		unauthorized: openAIUnauthorized(),
	}
}

// openAILimits is what https://platform.openai.com/docs/guides/rate-limits
// lists under "rate limits in headers".
func openAILimits(h http.Header, limit, left int, _ time.Time) {
	h.Set("openai-version", "2020-10-01")
	h.Set("openai-organization", "org-simulator")
	h.Set("openai-processing-ms", "7")
	h.Set("x-ratelimit-limit-requests", strconv.Itoa(limit))
	h.Set("x-ratelimit-remaining-requests", strconv.Itoa(left))
	h.Set("x-ratelimit-reset-requests", "120ms")
	h.Set("x-ratelimit-limit-tokens", strconv.Itoa(limit*tokensPerRequest))
	h.Set("x-ratelimit-remaining-tokens", strconv.Itoa(left*tokensPerRequest))
	h.Set("x-ratelimit-reset-tokens", "6ms")
}

func openAIFailure(_ int, kind, code, message string) any {
	e := map[string]any{"message": message, "type": kind, "param": nil, "code": nil}
	if code != "" {
		e["code"] = code
	}
	return map[string]any{"error": e}
}

// openAIEvent: the error object as data without a name, as chat completions
// send it; the SDK throws on a top-level "error".
func openAIEvent(_ int, body []byte) (string, []byte) { return "", body }

func openAIUnauthorized() refusal {
	return refusal{
		Status: http.StatusUnauthorized,
		Header: fields("Www-Authenticate", `Bearer realm="OpenAI API"`),
		Body:   text(openAIFailure(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.")),
	}
}

func openAIRequests(limit int, wait time.Duration, _ time.Time) refusal {
	return refusal{
		Status: http.StatusTooManyRequests,
		Header: fields(
			"retry-after", seconds(wait), "retry-after-ms", strconv.FormatInt(wait.Milliseconds(), 10),
			"x-ratelimit-limit-requests", strconv.Itoa(limit), "x-ratelimit-remaining-requests", "0",
			"x-ratelimit-reset-requests", goDuration(wait),
			"x-ratelimit-limit-tokens", strconv.Itoa(limit*tokensPerRequest),
			"x-ratelimit-remaining-tokens", strconv.Itoa(limit*tokensPerRequest/2), "x-ratelimit-reset-tokens", "6ms"),
		Body: text(openAIFailure(429, "requests", "rate_limit_exceeded", fmt.Sprintf(
			"Rate limit reached for gpt-4o in organization org-simulator on requests per min (RPM): Limit %d, Used %d, Requested 1. Please try again in %s. Visit https://platform.openai.com/account/rate-limits to learn more.",
			limit, limit, goDuration(wait)))),
	}
}

// openAITokens is a spent token bucket and no Retry-After.
func openAITokens(limit int, wait time.Duration, _ time.Time) refusal {
	return refusal{
		Status: http.StatusTooManyRequests,
		Header: fields(
			"x-ratelimit-limit-requests", strconv.Itoa(limit), "x-ratelimit-remaining-requests", strconv.Itoa(limit),
			"x-ratelimit-reset-requests", "120ms",
			"x-ratelimit-limit-tokens", strconv.Itoa(limit*tokensPerRequest), "x-ratelimit-remaining-tokens", "0",
			"x-ratelimit-reset-tokens", goDuration(wait)),
		Body: text(openAIFailure(429, "tokens", "rate_limit_exceeded", fmt.Sprintf(
			"Rate limit reached for gpt-4o in organization org-simulator on tokens per min (TPM): Limit %d, Used %d, Requested %d. Please try again in %s.",
			limit*tokensPerRequest, limit*tokensPerRequest, tokensPerRequest, goDuration(wait)))),
	}
}

func openAIQuota(int, time.Duration, time.Time) refusal {
	return refusal{
		Status: http.StatusTooManyRequests,
		Body: text(openAIFailure(429, "insufficient_quota", "insufficient_quota",
			"You exceeded your current quota, please check your plan and billing details.")),
	}
}

func openRouter(limit int, wait time.Duration, now time.Time) refusal {
	return refusal{Status: http.StatusTooManyRequests, Body: text(map[string]any{"error": map[string]any{
		"message": "Rate limit exceeded: free-models-per-min. ", "code": 429,
		"metadata": map[string]any{"headers": map[string]string{
			"X-RateLimit-Limit": strconv.Itoa(limit), "X-RateLimit-Remaining": "0",
			"X-RateLimit-Reset": strconv.FormatInt(now.Add(wait).UnixMilli(), 10),
		}},
	}})}
}

type chatRequest struct {
	Model    string            `json:"model"`
	Stream   bool              `json:"stream"`
	Messages []json.RawMessage `json:"messages"`
	Options  struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// chatCompletions is POST /v1/chat/completions.
func chatCompletions(v *visit) {
	var q chatRequest
	if !v.read(&q) {
		return
	}
	if q.Model == "" || len(q.Messages) == 0 {
		v.json(http.StatusBadRequest, openAIFailure(400, "invalid_request_error", "", "you must provide a model and messages parameter"))
		return
	}
	v.Header().Set("X-Request-Id", requestID("req_", v.seq))
	id, made := requestID("chatcmpl-", v.seq), v.now.Unix()
	usage := map[string]any{"prompt_tokens": 12, "completion_tokens": 18, "total_tokens": 30}
	if !q.Stream {
		v.json(http.StatusOK, map[string]any{
			"id": id, "object": "chat.completion", "created": made, "model": q.Model, "usage": usage,
			"service_tier": "default", "system_fingerprint": "fp_simulator",
			"choices": []any{map[string]any{
				"index": 0, "finish_reason": "stop", "logprobs": nil,
				"message": map[string]any{"role": "assistant", "content": v.sim.options.Text, "refusal": nil, "annotations": []any{}},
			}},
		})
		return
	}
	st := v.stream()
	chunk := func(delta map[string]any, finish any) bool {
		return st.object("", map[string]any{
			"id": id, "object": "chat.completion.chunk", "created": made, "model": q.Model, "system_fingerprint": "fp_simulator",
			"choices": []any{map[string]any{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}},
		})
	}
	if !chunk(map[string]any{"role": "assistant", "content": "", "refusal": nil}, nil) ||
		!v.words(func(word string) bool { return chunk(map[string]any{"content": word}, nil) }) ||
		!chunk(map[string]any{}, "stop") {
		return
	}
	if q.Options.Usage {
		st.object("", map[string]any{
			"id": id, "object": "chat.completion.chunk", "created": made, "model": q.Model, "choices": []any{}, "usage": usage,
		})
	}
	st.send("", []byte("[DONE]"))
}

// models is GET /v1/models, the smallest request there is.
func models(v *visit) {
	if strings.HasPrefix(v.r.URL.Path, "/backend-api/") { // Codex's own list, of another shape
		v.json(http.StatusOK, map[string]any{"models": []any{}})
		return
	}
	v.json(http.StatusOK, map[string]any{"object": "list", "data": []any{
		map[string]any{"id": "gpt-4o", "object": "model", "created": 1715367049, "owned_by": "system"},
	}})
}
