package pool_test

import (
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

func TestCostless(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		provider, method, target string
		want                     bool
	}{
		{"openai", "POST", "/v1/responses", false},
		{"openai", "POST", "/v1/chat/completions?x=1", false},
		{"openai", "POST", "/v1/embeddings", false},
		{"openai", "GET", "/v1/models", true},
		{"openai", "GET", "/v1/responses", true}, // a WebSocket's handshake
		{"openai", "HEAD", "/", true},
		{"openai", "POST", "/v1/responses/input_tokens", true},
		{"anthropic", "POST", "/v1/messages?beta=true", false},
		{"anthropic", "POST", "/v1/messages/batches", false},
		{"anthropic", "POST", "/v1/messages/count_tokens?beta=true", true},
		{"anthropic", "POST", "/api/event_logging/batch", true},
		{"anthropic", "GET", "/api/oauth/usage", true},
		{"codex", "POST", "/backend-api/codex/responses", false},
		{"codex", "POST", "/backend-api/codex/responses/compact", false},
		{"codex", "POST", "/backend-api/codex/analytics-events/events", true},
		{"codex", "GET", "/backend-api/codex/models?client_version=1", true},
		{"gemini", "POST", "/v1beta/models/g:streamGenerateContent?alt=sse", false},
		{"gemini", "POST", "/v1beta/models/g:countTokens", true},
		{"openrouter", "POST", "/api/v1/chat/completions", false},
		{"github", "GET", "/repos/o/r", false},
		{"", "GET", "/anything", false},
		{"", "POST", "/", false},
	} {
		if got := pool.Costless(c.provider, []byte(c.method), []byte(c.target)); got != c.want {
			t.Errorf("%s %s %s: %v", c.provider, c.method, c.target, got)
		}
	}
}
