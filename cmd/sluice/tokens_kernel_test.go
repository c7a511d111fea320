package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// tokenHouse has a pool "codex" of two accounts, whose provider's token endpoint agents
// reach too.
func tokenHouse(t *testing.T, config ...string) *house {
	t.Helper()
	h := newEmptyHouse(t, nil, []simulator.Credential{
		{Name: "first", Secret: openaiFirst, RefreshToken: "rt-first-16180339", AccountID: "account-1"},
		{Name: "second", Secret: openaiSecond, RefreshToken: "rt-second-14142135", AccountID: "account-2"},
	}, config...)
	hosts, err := os.ReadFile(filepath.Join(h.dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("hosts", string(hosts)+h.pair.ServerIP4+" auth.openai.com\n")
	h.addAccount("a1", openaiFirst, "rt-first-16180339", "account-1", time.Now().Add(time.Hour))
	h.addAccount("a2", openaiSecond, "rt-second-14142135", "account-2", time.Now().Add(time.Hour))
	h.sluice("", "pool", "create", "codex", "--members", "a1,a2", "--provider", "codex")
	return h
}

// held is what the operator is told that an agent of the pool may hold.
func (h *house) held() pool.AgentTokens {
	h.t.Helper()
	var said struct {
		Tokens pool.AgentTokens `json:"agent_tokens"`
	}
	status := h.sluice("", "pool", "status", "codex", "-o", "json")
	if err := json.Unmarshal([]byte(status), &said); err != nil || said.Tokens.RefreshToken == "" {
		h.t.Fatalf("%v: %s", err, status)
	}
	return said.Tokens
}

// redeem is an agent that renews its login, with the refresh token in a file as Codex has
// it. It returns the answer's body and status.
func (h *house) redeem(version, token string) (body, status string) {
	h.t.Helper()
	h.write("refresh.json", fmt.Sprintf(`{"client_id":"app","grant_type":"refresh_token","refresh_token":%q}`, token))
	got := h.output("curl", "-sS", "-m", "30", version, "-w", "\n%{http_code}", "-H", "Content-Type: application/json",
		"-d", "@"+filepath.Join(h.dir, "refresh.json"), "https://auth.openai.com/oauth/token")
	i := strings.LastIndexByte(got, '\n')
	return got[:i], got[i+1:]
}

// TestAgentsRenewPlaceholders: an agent that renews its login gets placeholders, the same
// whoever serves, and the provider hears nothing of it. A login that is not the pool's is
// the agent's own affair.
func TestAgentsRenewPlaceholders(t *testing.T) {
	t.Parallel()
	h := tokenHouse(t)
	held := h.held()
	renews := func(token, who string) {
		t.Helper()
		for _, version := range []string{"--http1.1", "--http2"} {
			seq := len(h.sim.Journal().Since(0))
			body, status := h.redeem(version, token)
			var got pool.AgentTokens
			if err := json.Unmarshal([]byte(body), &got); err != nil || status != "200" || got != held {
				t.Errorf("%s, %s: %s %s", who, version, status, body)
			}
			if all := h.sim.Journal().Since(0); len(all) != seq {
				t.Errorf("%s, %s: the provider saw %+v", who, version, all[seq:])
			}
		}
	}
	works := func(want string) {
		t.Helper()
		seq := len(h.sim.Journal().Since(0))
		got := h.output("curl", "-sS", "-m", "30", "-w", "\n%{http_code}\n", "-H", "Authorization: Bearer "+held.AccessToken,
			"-H", "Content-Type: application/json", "-d", `{"model":"m","input":[]}`, "https://chatgpt.com/backend-api/codex/responses")
		if !strings.HasSuffix(got, "\n200\n") {
			t.Error(got)
		}
		if all := h.sim.Journal().Since(0); len(all) != seq+1 || all[seq].Credential != want {
			t.Errorf("the upstream saw %+v, want %s", all[seq:], want)
		}
	}
	renews(held.RefreshToken, "with the placeholder")
	works("first")
	h.sluice("", "pool", "rotate", "codex")
	works("second")
	renews(held.RefreshToken, "after a switch of members")
	// An agent whose own file was imported still has the real one: it would spend the account.
	renews("rt-first-16180339", "with a member's own")
	if _, refresh := h.sim.Tokens("first"); refresh != "rt-first-16180339" {
		t.Error("the account's refresh token was spent")
	}
	h.daemon.kill()
	h.start()
	renews(held.RefreshToken, "after a restart")

	if body, status := h.redeem("--http2", "rt-of-nobody"); status != "400" || !strings.Contains(body, "invalid_grant") || strings.Contains(body, "sluice") {
		t.Errorf("a login of the agent's own: %s %s", status, body)
	}
	all := h.sim.Journal().Since(0)
	if last := all[len(all)-1]; last.Path != "/oauth/token" || len(last.Presented) != 0 {
		t.Errorf("the provider saw %+v", last)
	}
	if text := h.daemon.log.String(); strings.Contains(text, "rt-first") || strings.Contains(text, held.RefreshToken) {
		t.Error("a token is in the log")
	}
}

// TestUnknownLoginsAreRefused, if it is configured so.
func TestUnknownLoginsAreRefused(t *testing.T) {
	t.Parallel()
	h := tokenHouse(t, `[accounts]`, `unknown_tokens = "refuse"`)
	if body, status := h.redeem("--http2", "rt-of-nobody"); status != "400" || !strings.Contains(body, "unauthorized_client") {
		t.Errorf("%s %s", status, body)
	}
	if all := h.sim.Journal().Since(0); len(all) != 0 {
		t.Errorf("the provider saw %+v", all)
	}
	if _, status := h.redeem("--http1.1", h.held().RefreshToken); status != "200" {
		t.Errorf("with a placeholder: %s", status)
	}
}

// TestAnAgentsAccountIsItsOwn: Codex looks for its account among those that the provider
// tells it of, whichever member is asked.
func TestAnAgentsAccountIsItsOwn(t *testing.T) {
	t.Parallel()
	h := tokenHouse(t)
	for _, member := range []string{"account-1", "account-2"} {
		for _, version := range []string{"--http1.1", "--http2"} {
			got := h.output("curl", "-sS", "-m", "30", version, "-H", "ChatGPT-Account-ID: 70ef75a5-0cd1-4753-8530-6da29e41a46a",
				"https://chatgpt.com/backend-api/wham/accounts/check")
			if !strings.Contains(got, `"id":"70ef75a5-0cd1-4753-8530-6da29e41a46a"`) || strings.Contains(got, member) {
				t.Errorf("%s: %s", version, got)
			}
		}
		h.sluice("", "pool", "rotate", "codex")
	}
}
