package pool_test

import (
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

func TestAside(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		provider, target string
		want             bool
	}{
		{"anthropic", "/api/oauth/usage", true},
		{"anthropic", "/api/event_logging/batch", true},
		{"anthropic", "/v1/mcp_servers?limit=1000", true},
		{"anthropic", "/v1/code/sessions", true},
		{"anthropic", "/v1/messages/count_tokens?beta=true", true},
		{"anthropic", "/v1/messages?beta=true", false},
		{"anthropic", "/v1/messages/batches", false},
		{"anthropic", "/v1/models", false},
		{"anthropic", "/v1/files?x=/api/", false},
		{"codex", "/backend-api/wham/usage", true},
		{"codex", "/backend-api/wham/accounts/check", true},
		{"codex", "/backend-api/ps/mcp", true},
		{"codex", "/codex/install.sh", true}, // whether there is a newer one
		{"codex", "/backend-api/codex/analytics-events/events", true},
		{"codex", "/backend-api/codex/models?client_version=1", false},
		{"codex", "/backend-api/codex/responses", false},
		{"codex", "/backend-api/codex/responses/compact", false},
		{"codex", "/backend-api/conversation", false},
		{"openai", "/v1/models", false},
		{"gemini", "/v1beta/models/g:countTokens", false},
		{"", "/api/oauth/usage", false},
	} {
		if got := pool.Aside(c.provider, []byte(c.target)); got != c.want {
			t.Errorf("%s %s: %v", c.provider, c.target, got)
		}
	}
}

func TestStanding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		provider, method, target string
		want                     bool
	}{
		{"codex", "GET", "/backend-api/wham/accounts/check", true},
		{"codex", "GET", "/backend-api/wham/usage?x=1", true},
		{"codex", "POST", "/backend-api/wham/tasks", false},
		{"codex", "GET", "/backend-api/codex/models", false},
		{"anthropic", "GET", "/api/oauth/usage", true},
		{"anthropic", "GET", "/api/hello", true},
		{"anthropic", "GET", "/api/hello?x=1", true},
		{"anthropic", "GET", "/api/claude_cli/bootstrap", false},
		{"anthropic", "POST", "/api/oauth/claude_cli/create_api_key", false},
		{"anthropic", "POST", "/api/event_logging/batch", false},
		{"openai", "GET", "/backend-api/wham/usage", false},
		{"", "GET", "/api/oauth/usage", false},
	} {
		if got := pool.Standing(c.provider, []byte(c.method), []byte(c.target)); got != c.want {
			t.Errorf("%s %s %s: %v", c.provider, c.method, c.target, got)
		}
	}
}

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
