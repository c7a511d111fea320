package pool

import (
	"strings"
	"testing"
	"time"
)

// TestAnExhaustedPoolSaysWhatIsTrue does not call a key that was rejected rate limited.
func TestAnExhaustedPoolSaysWhatIsTrue(t *testing.T) {
	t.Parallel()
	at := time.Unix(1795455000, 0)
	for want, e := range map[string]ExhaustedError{
		`All 2 credentials of pool \"p\" are rate limited. Try again in 12s.`:                      {Members: 2, RecoversAt: at, Reason: "rate limit (429): retry-after 12"},
		`The only credential of pool \"p\" is rate limited. Try again in 12s.`:                     {Members: 1, RecoversAt: at, Reason: "rate limit (429)"},
		`The only credential of pool \"p\" is out: authentication failed (401). Try again in 12s.`: {Members: 1, RecoversAt: at, Reason: "authentication failed (401)"},
		`All 3 credentials of pool \"p\" are out: out of credit (402). Try again in 12s.`:          {Members: 3, RecoversAt: at, Reason: "out of credit (402)"},
		`All 2 credentials of pool \"p\" are out, with no known end. Try again in 12s.`:            {Members: 2},
	} {
		for _, provider := range append([]string{""}, "openai", "codex", "anthropic", "gemini", "openrouter", "github") {
			e.Pool, e.Provider, e.RetryAfter = "p", provider, 12*time.Second
			e.RetryAt = at.Add(e.RetryAfter - time.Millisecond)
			if _, body := e.Body(); !strings.Contains(string(body), want) {
				t.Errorf("%s: %s, want %s", provider, body, want)
			} else if provider == "codex" && !strings.Contains(string(body), `"resets_at":1795455012`) {
				t.Errorf("codex: %s does not say when", body)
			}
		}
	}
	long := ExhaustedError{Members: 1, RecoversAt: at, RetryAfter: 15 * time.Minute}
	if _, body := long.Body(); !strings.Contains(string(body), "Try again in 15m.") {
		t.Errorf("%s does not say 15m", body)
	}
}
