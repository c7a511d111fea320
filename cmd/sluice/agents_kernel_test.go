package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// saying is what the simulator's models say.
const saying = "The quick brown fox"

// realAgent is the path of an agent's command.
func realAgent(t *testing.T, name string) string {
	t.Helper()
	needs(t, "node", "git")
	path, err := filepath.Abs(filepath.Join("..", "..", "scripts", "agents", "node_modules", ".bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		lacking(t, "%s is not installed, scripts/deps.sh does it: %v", name, err)
	}
	return path
}

// works has an agent answer in a repository of its own, again with the key that it was
// given running out in between, and looks at what the upstream saw.
func (h *house) works(env, command, spent string) {
	h.t.Helper()
	script := `export HOME="$0" && git init -q repository && cd repository && export DISABLE_AUTOUPDATER=1 ` + env + ` && exec ` + command + ` </dev/null`
	for range 2 {
		seq := h.sim.Journal().Last()
		if got := h.output("sh", "-c", script, h.dir); !strings.Contains(got, saying) {
			h.t.Errorf("%s: %s", command, got)
		}
		answered := 0
		for _, e := range h.sim.Journal().Since(seq) {
			if len(e.Presented) > 0 && e.Credential == "" {
				h.t.Errorf("%s: %s %s was sent with %+v", command, e.Method, e.Path, e.Presented)
			}
			if e.Method == "POST" && e.Status == 200 {
				answered++
			}
			if strings.HasSuffix(e.Path, "/responses") && e.Method != "POST" {
				h.t.Errorf("%s: the upstream was asked for a WebSocket, in which no limit could be followed", command)
			}
		}
		if answered == 0 {
			h.t.Errorf("%s: nothing was asked", command)
		}
		h.spend(spent)
	}
}

// TestCodex runs OpenAI's Codex with an API key.
func TestCodex(t *testing.T) {
	t.Parallel()
	codex := realAgent(t, "codex")
	const third = "sk-third-57721566"
	h := newEmptyHouse(t, nil, []simulator.Credential{
		{Name: "first", Secret: openaiFirst}, {Name: "second", Secret: openaiSecond}, {Name: "third", Secret: third},
	})
	for name, secret := range map[string]string{"a1": openaiFirst, "a2": openaiSecond, "a3": third} {
		h.sluice(secret, "cred", "add", name)
	}
	h.sluice("", "pool", "create", "openai", "--members", "a1,a2", "--provider", "openai")
	// Codex asks chatgpt.com for models, too, and tries for long if it cannot.
	h.sluice("", "pool", "create", "chatgpt", "--members", "a3", "--provider", "codex")
	h.works(`CODEX_API_KEY="$OPENAI_API_KEY"`, codex+` exec --skip-git-repo-check "say hi"`, "first")
}

// TestCodexWithALogin runs it with a ChatGPT login of placeholders, under an account that no
// member has. When all are out it starts, and says so.
func TestCodexWithALogin(t *testing.T) {
	t.Parallel()
	codex := realAgent(t, "codex")
	h := tokenHouse(t)
	held := h.held()
	login, err := json.Marshal(map[string]any{
		"auth_mode": "chatgpt", "OPENAI_API_KEY": nil, "last_refresh": "2026-01-01T00:00:00Z",
		"tokens": map[string]string{
			"id_token": held.IDToken, "access_token": held.AccessToken, "refresh_token": held.RefreshToken, "account_id": "an-account-of-its-own",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(h.dir, ".codex"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.write(".codex/auth.json", string(login))
	h.works(`CODEX_HOME="$HOME/.codex"`, codex+` exec --skip-git-repo-check "say hi"`, "first")
	h.spend("second")
	for range 2 { // the first one finds it out
		out, err := h.agent([]string{"CODEX_HOME=" + filepath.Join(h.dir, ".codex")},
			h.path, "run", "--user", "root", "--", codex, "exec", "--skip-git-repo-check", "say hi").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "usage limit") || strings.Contains(string(out), "routing discovery") {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// TestClaudeCode runs Anthropic's Claude Code with an API key.
func TestClaudeCode(t *testing.T) {
	t.Parallel()
	claude := realAgent(t, "claude")
	h := newHouse(t, nil)
	h.works(`CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1`, claude+` -p "say hi"`, "ant-first")
}
