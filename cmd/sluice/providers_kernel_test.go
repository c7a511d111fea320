package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// TestProviders drives each preset through the redirect: a member that is refused in
// each of the ways that its provider has is out for as long as was said, the next one
// answers, and an exhausted pool says so in the provider's own words.
func TestProviders(t *testing.T) {
	t.Parallel()
	const account = `{"access_token":"%","refresh_token":"rt-%","expires_at":"2099-01-01T00:00:00Z"}`
	for _, c := range []struct {
		provider, url, body string
		secrets             [2]string
		stdin               string   // a secret's form, % for the secret; "" is the secret itself
		args                []string // of cred add
		styles              map[string]time.Duration
		refused             string // in the exhausted answer
	}{
		{
			provider: "openai", url: "https://api.openai.com/v1/chat/completions", body: chatBody,
			secrets: [2]string{"sk-one-31415926", "sk-two-27182818"}, refused: `"code":"rate_limit_exceeded"`,
			styles: map[string]time.Duration{"openai": 90 * time.Second, "openai-tokens": 90 * time.Second, "openai-quota": time.Hour, "retry-after-date": 90 * time.Second},
		},
		{
			provider: "codex", url: "https://chatgpt.com/backend-api/codex/responses", body: `{"model":"m","stream":true,"input":"hello"}`,
			secrets: [2]string{"codex-one-31415926", "codex-two-27182818"}, stdin: account,
			args:    []string{"--type", "oauth", "--token-url", "https://auth.openai.com/oauth/token", "--client-id", "app", "--extra-header", "chatgpt-account-id: acct-%"},
			refused: `"type":"usage_limit_reached"`,
			styles:  map[string]time.Duration{"codex": 90 * time.Second, "codex-headers": 90 * time.Second},
		},
		{
			provider: "anthropic", url: "https://api.anthropic.com/v1/messages", body: `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}`,
			secrets: [2]string{"sk-ant-one-31415926", "sk-ant-two-27182818"}, refused: `"type":"rate_limit_error"`,
			styles: map[string]time.Duration{"anthropic": 90 * time.Second, "anthropic-unified": 90 * time.Second},
		},
		{
			provider: "gemini", url: "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent?key=placeholder",
			body:    `{"contents":[{"parts":[{"text":"hello"}]}]}`,
			secrets: [2]string{"AIza-one-31415926", "AIza-two-27182818"}, refused: `"status":"RESOURCE_EXHAUSTED"`,
			styles: map[string]time.Duration{"gemini": 90 * time.Second},
		},
		{
			provider: "openrouter", url: "https://openrouter.ai/api/v1/chat/completions", body: chatBody,
			secrets: [2]string{"sk-or-one-31415926", "sk-or-two-27182818"}, refused: `"code":429`,
			styles: map[string]time.Duration{"openrouter": 90 * time.Second},
		},
		{
			provider: "github", url: "https://api.github.com/user",
			secrets: [2]string{"ghp_one31415926", "ghp_two27182818"}, refused: "API rate limit exceeded",
			styles: map[string]time.Duration{"github": 90 * time.Second, "github-secondary": 90 * time.Second},
		},
	} {
		t.Run(c.provider, func(t *testing.T) {
			var known []simulator.Credential
			names := [2]string{"one", "two"}
			for i, name := range names {
				known = append(known, simulator.Credential{Name: name, Secret: c.secrets[i]})
			}
			if c.stdin != "" {
				for i := range known {
					known[i].AccountID = "acct-" + known[i].Name
				}
			}
			h := newEmptyHouse(t, nil, known)
			for i, name := range names {
				stdin := c.secrets[i]
				if c.stdin != "" {
					stdin = strings.ReplaceAll(c.stdin, "%", stdin)
				}
				args := []string{"cred", "add", name}
				for _, a := range c.args {
					args = append(args, strings.ReplaceAll(a, "acct-%", "acct-"+name))
				}
				h.sluice(stdin, args...)
			}
			h.sluice("", "pool", "create", "p", "--members", "one,two", "--provider", c.provider)
			ask := func() string {
				args := []string{"curl", "-sS", "--max-time", "20", "-D", "-", "-w", "\n%{http_code}\n", c.url, "-H", "Authorization: Bearer placeholder", "-H", "anthropic-version: 2023-06-01"}
				if c.body != "" {
					args = append(args, "-H", "Content-Type: application/json", "-d", c.body)
				}
				return h.output(args...)
			}
			for style, want := range c.styles {
				t.Run(style, func(t *testing.T) {
					defer h.in(t)()
					active, other := h.refuseActive(style)
					before := h.sim.Journal().Last()
					if got := ask(); !strings.HasSuffix(got, "\n200\n") {
						t.Fatalf("not answered: %s", got)
					}
					entries := h.seen(before, 2)
					if entries[0].Credential != active || entries[1].Credential != other || entries[1].Status != 200 {
						t.Errorf("%s was answered %d, then %s %d", entries[0].Credential, entries[0].Status, entries[1].Credential, entries[1].Status)
					}
					if out := h.outFor(active); out < want-5*time.Second || out > want+2*time.Second {
						t.Errorf("%s is out for %s, and was told %s", active, out, want)
					}
				})
			}
			_, other := h.refuseActive("")
			h.refuse(other, "")
			ask() // refused by both; the next one is not sent at all
			before := h.sim.Journal().Last()
			got := ask()
			h.seen(before, 0)
			if !strings.HasSuffix(got, "\n429\n") || !strings.Contains(got, c.refused) || !strings.Contains(strings.ToLower(got), "sluice-pool: p") {
				t.Errorf("exhausted: %s", got)
			}
		})
	}
}

// members are the states of the pool "p".
func (h *house) members() (active string, remaining map[string]time.Duration) {
	h.t.Helper()
	var status struct {
		Active  string
		Members []struct {
			Name      string
			Remaining int64 `json:"remaining_seconds"`
		}
	}
	if err := json.Unmarshal([]byte(h.sluice("", "pool", "status", "p", "-o", "json")), &status); err != nil {
		h.t.Fatal(err)
	}
	remaining = make(map[string]time.Duration)
	for _, m := range status.Members {
		remaining[m.Name] = time.Duration(m.Remaining) * time.Second
	}
	return status.Active, remaining
}

func (h *house) outFor(member string) time.Duration {
	h.t.Helper()
	_, remaining := h.members()
	return remaining[member]
}

// refuseActive makes everybody available and then has the active member refused for
// 90 s in a style, "" for the provider's usual one.
func (h *house) refuseActive(style string) (active, other string) {
	h.t.Helper()
	h.sluice("", "pool", "clear", "p")
	for _, name := range []string{"one", "two"} {
		if err := h.sim.Restore(name); err != nil {
			h.t.Fatal(err)
		}
	}
	active, _ = h.members()
	other = map[string]string{"one": "two", "two": "one"}[active]
	h.refuse(active, style)
	return active, other
}

func (h *house) refuse(name, style string) {
	h.t.Helper()
	if err := h.sim.SetBehaviour(name, simulator.Behaviour{Refusal: style}); err != nil {
		h.t.Fatal(err)
	}
	if err := h.sim.Spend(name, 90*time.Second); err != nil {
		h.t.Fatal(err)
	}
}
