package simulator

import (
	"encoding/json"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

func geminiDialect() dialect {
	return dialect{
		name: "gemini", refusal: "gemini", failure: geminiFailure,
		limits: func(http.Header, int, int, time.Time) {}, // Gemini says nothing of what is left
		event:  func(_ int, body []byte) (string, []byte) { return "", body },
		unauthorized: refusal{Status: http.StatusBadRequest, Body: text(map[string]any{"error": map[string]any{
			"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT",
			"details": []any{map[string]any{
				"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com",
				"metadata": map[string]string{"service": "generativelanguage.googleapis.com"},
			}},
		}})},
	}
}

func geminiFailure(status int, kind, _, message string) any {
	return map[string]any{"error": map[string]any{"code": status, "message": message, "status": strings.ToUpper(kind)}}
}

func geminiExhausted(limit int, quota string, more ...any) refusal {
	details := append([]any{map[string]any{
		"@type": "type.googleapis.com/google.rpc.QuotaFailure",
		"violations": []any{map[string]any{
			"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
			"quotaId":     quota, "quotaDimensions": map[string]string{"location": "global", "model": "gemini-2.5-flash"},
			"quotaValue": strconv.Itoa(limit),
		}},
	}, map[string]any{
		"@type": "type.googleapis.com/google.rpc.Help",
		"links": []any{map[string]string{
			"description": "Learn more about Gemini API quotas", "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
		}},
	}}, more...)
	return refusal{Status: http.StatusTooManyRequests, Body: text(map[string]any{"error": map[string]any{
		"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details,
		"message": "You exceeded your current quota, please check your plan and billing details.",
	}})}
}

func geminiRetryInfo(limit int, wait time.Duration, _ time.Time) refusal {
	return geminiExhausted(limit, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier", map[string]any{
		"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": seconds(wait) + "s",
	})
}

// geminiPerDay ends at the next midnight in Los Angeles, and says so only by the quota's name.
func geminiPerDay(limit int, _ time.Duration, _ time.Time) refusal {
	return geminiExhausted(limit, "GenerateRequestsPerDayPerProjectPerModel-FreeTier")
}

type generateRequest struct {
	Contents []json.RawMessage `json:"contents"`
}

func (v *visit) candidate(said string, finish any) map[string]any {
	model, _, _ := strings.Cut(path.Base(v.r.URL.Path), ":")
	candidate := map[string]any{
		"index":   0,
		"content": map[string]any{"role": "model", "parts": []any{map[string]any{"text": said}}},
	}
	if finish != nil {
		candidate["finishReason"] = finish
	}
	return map[string]any{
		"candidates": []any{candidate}, "modelVersion": model, "responseId": requestID("", v.seq),
		"usageMetadata": map[string]any{"promptTokenCount": 12, "candidatesTokenCount": 18, "totalTokenCount": 30},
	}
}

func (v *visit) generate() bool {
	var q generateRequest
	if !v.read(&q) {
		return false
	}
	if len(q.Contents) == 0 {
		v.json(http.StatusBadRequest, geminiFailure(400, "invalid_argument", "", "* GenerateContentRequest.contents: contents is not specified"))
		return false
	}
	return true
}

// generateContent is POST /v1beta/models/MODEL:generateContent.
func generateContent(v *visit) {
	if v.generate() {
		v.json(http.StatusOK, v.candidate(v.sim.options.Text, "STOP"))
	}
}

// streamGenerateContent is the same as events, or as one JSON array without alt=sse.
func streamGenerateContent(v *visit) {
	if !v.generate() {
		return
	}
	if v.query().Get("alt") != "sse" {
		v.json(http.StatusOK, []any{v.candidate(v.sim.options.Text, "STOP")})
		return
	}
	st := v.stream()
	_ = v.words(func(word string) bool { return st.object("", v.candidate(word, nil)) }) && st.object("", v.candidate("", "STOP"))
}
