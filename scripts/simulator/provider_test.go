package simulator_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

func TestOAuthRefreshTokensAreSingleUse(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{Credentials: []simulator.Credential{{
		Name: "account", Secret: "at-first", RefreshToken: "rt-first", AccountID: "acct-1", ExpiresIn: simulator.Duration(time.Hour),
	}}})
	c := client(t, sim, "h2")
	const endpoint = "https://auth.openai.com/oauth/token"
	refresh := func(token string, asJSON bool) (int, map[string]any) {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {"app"}}
		header, body := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, form.Encode()
		if asJSON {
			header["Content-Type"], body = "application/json", `{"grant_type":"refresh_token","refresh_token":"`+token+`","client_id":"app"}`
		}
		r, raw := send(t, c, "POST", endpoint, header, strings.NewReader(body))
		var answer map[string]any
		if err := json.Unmarshal(raw, &answer); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		return r.StatusCode, answer
	}
	status, first := refresh("rt-first", false)
	if status != 200 || first["token_type"] != "Bearer" || first["expires_in"] != 3600.0 {
		t.Fatalf("refresh: %d %v", status, first)
	}
	if status, again := refresh("rt-first", false); status != 400 || again["error"] != "invalid_grant" {
		t.Errorf("reuse: %d %v", status, again)
	}
	status, second := refresh(first["refresh_token"].(string), true)
	if status != 200 || second["access_token"] == first["access_token"] {
		t.Errorf("second refresh: %d %v", status, second)
	}
	for account, want := range map[string]int{"acct-1": 200, "acct-2": 401, "": 401} {
		r, body := send(t, c, "POST", "https://chatgpt.com/backend-api/codex/responses", map[string]string{
			"Authorization": "Bearer " + second["access_token"].(string), "Chatgpt-Account-Id": account,
		}, strings.NewReader(`{"model":"gpt-5-codex","input":[]}`))
		if r.StatusCode != want {
			t.Errorf("account %q: %s %s", account, r.Status, body)
		}
	}
	e := sim.Journal().Entries()[0]
	if e.Grant != "refresh_token" || e.Credential != "account" {
		t.Errorf("journal: %+v", e)
	}
}

func TestGemini(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{Text: "one two", Credentials: []simulator.Credential{{Name: "a", Secret: "AIza-a"}}})
	c := client(t, sim, "h2")
	const model = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash"
	key := map[string]string{"X-Goog-Api-Key": "AIza-a"}
	const ask = `{"contents":[{"parts":[{"text":"hi"}]}]}`
	if r, body := send(t, c, "POST", model+":generateContent", key, strings.NewReader(ask)); r.StatusCode != 200 ||
		!strings.Contains(string(body), `"text":"one two"`) {
		t.Errorf("%s: %s", r.Status, body)
	}
	if r, body := send(t, c, "POST", model+":streamGenerateContent?alt=sse", key, strings.NewReader(ask)); r.StatusCode != 200 ||
		strings.Count(string(body), "data: {") != 3 {
		t.Errorf("%s: %s", r.Status, body)
	}
	if r, _ := send(t, c, "POST", model+":generateContent", nil, strings.NewReader(ask)); r.StatusCode != 400 {
		t.Errorf("no key: %s", r.Status)
	}
}

func TestResponsesUpgradeIsDeclined(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{Credentials: []simulator.Credential{{Name: "a", Secret: "sk-a"}}})
	r, _ := send(t, client(t, sim, "http/1.1"), "GET", "https://api.openai.com/v1/responses", map[string]string{
		"Authorization": "Bearer sk-a", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13",
	}, nil)
	if r.StatusCode != http.StatusUpgradeRequired {
		t.Error(r.Status)
	}
}

// sdk runs a script of scripts/clients and returns what each call printed.
func sdk(t *testing.T, sim *simulator.Simulator, key, script string, calls ...string) []map[string]any {
	t.Helper()
	clients := filepath.Join("..", "clients")
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(filepath.Join(clients, "node_modules"))
	}
	if err != nil {
		if os.Getenv("SLUICE_KERNEL_TESTS") == "require" {
			t.Fatalf("node and the SDKs are required: run scripts/deps.sh: %v", err)
		}
		t.Skipf("node or the SDKs are not installed: run scripts/deps.sh: %v", err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, sim.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, append([]string{script}, calls...)...)
	cmd.Dir = clients
	base := "https://" + sim.Addr().String()
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NODE_EXTRA_CA_CERTS=" + ca,
		"OPENAI_API_KEY=" + key, "OPENAI_BASE_URL=" + base + "/v1", "ANTHROPIC_API_KEY=" + key, "ANTHROPIC_BASE_URL=" + base,
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node %s: %v", script, err)
	}
	var answers []map[string]any
	for line := range strings.Lines(string(out)) {
		var answer map[string]any
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		answers = append(answers, answer)
	}
	if len(answers) != len(calls) {
		t.Fatalf("%d answers to %d calls: %s", len(answers), len(calls), out)
	}
	return answers
}

func TestSDKsUnderstandTheAnswers(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{Credentials: []simulator.Credential{{Name: "a", Secret: "sk-a"}}})
	for script, calls := range map[string][]string{
		"openai.mjs":    {"chat", "chat-stream", "responses", "responses-stream"},
		"anthropic.mjs": {"messages", "messages-stream"},
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			for i, answer := range sdk(t, sim, "sk-a", script, calls...) {
				if answer["text"] != simulator.DefaultText {
					t.Errorf("%s: %v", calls[i], answer)
				}
			}
		})
	}
}

func TestSDKsUnderstandTheRefusals(t *testing.T) {
	t.Parallel()
	behaviour := simulator.Behaviour{Window: simulator.Duration(time.Hour)}
	inStream := behaviour
	inStream.InStream = true
	sim := start(t, simulator.Options{Credentials: []simulator.Credential{
		{Name: "a", Secret: "sk-a", Behaviour: behaviour}, {Name: "b", Secret: "sk-b", Behaviour: inStream},
	}})
	for _, name := range []string{"a", "b"} {
		if err := sim.Spend(name, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for _, answer := range sdk(t, sim, "sk-a", "openai.mjs", "chat", "responses-stream") {
		left, err := strconv.Atoi(fmt.Sprint(answer["retry_after"]))
		if answer["error"] != "RateLimitError" || answer["code"] != "rate_limit_exceeded" || err != nil || left > 3600 || left < 3540 {
			t.Errorf("openai: %v", answer)
		}
	}
	for _, answer := range sdk(t, sim, "sk-b", "openai.mjs", "chat-stream", "responses-stream") {
		if answer["code"] != "rate_limit_exceeded" || answer["status"] != nil {
			t.Errorf("openai, in the stream: %v", answer)
		}
	}
	for key, want := range map[string]string{"sk-a": "RateLimitError", "sk-b": "APIError"} {
		if answer := sdk(t, sim, key, "anthropic.mjs", "messages-stream")[0]; answer["error"] != want || answer["type"] != "rate_limit_error" {
			t.Errorf("anthropic %s: %v", key, answer)
		}
	}
}
