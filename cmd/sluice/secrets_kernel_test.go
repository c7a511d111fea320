package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/scripts/botapi"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// secretsOf are one of each kind that there is. The odd one is written in another way
// wherever it is encoded.
var secretsOf = map[string]string{
	"a key": "sk-given-31415926535897", "an odd key": `sk-/+"&<\e~27182818284590`, "a key in a file": "sk-file-14142135623730",
	"a key in a variable": "sk-env-17320508075688", "a key of a command": "sk-command-22360679774997", "a key in Vault": "sk-vault-26457513110645",
	"Vault's token": "hvs.token-33166247903553", "the command's token": "op-token-36055512754639", "an access token": "at-first-41231056256176",
	"a refresh token": "rt-first-43588989435406", "another refresh token": "rt-second-47958315233127", "an extra header": "account-53851648071345",
	"Codex' refresh token": "rt-codex-55677643628300", "Codex' key": "sk-codex-60827625302982", "Hermes' key": "sk-hermes-64031242374328",
	"Hermes' refresh token": "rt-hermes-68556546004010", "Hermes' access token": "at-hermes-71414284285428", "the bot's token": "123456:AAH-72801098892805",
	"the webhook's secret": "hook-secret-76811457478686", "a replaced key": "sk-replaced-78102496759066", "a refused secret": "sk-refused-81240384046359",
	"a wrong token": "sluice_8306623862918074", "a secret in a chat": "sk-proj-84261497731763580000",
}

// observed is a house in which every kind of secret is used, and what is seen of it.
type observed struct {
	*house
	*hunt
	port  int
	token string // of the API
	bot   *botapi.Server
	mu    sync.Mutex // guards the hunt while a webhook is delivered
}

// keptElsewhere starts a Vault, puts secrets where others keep them, and is the
// configuration for that.
func keptElsewhere(t *testing.T, dir string) (config string) {
	t.Helper()
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != secretsOf["Vault's token"] || r.URL.Path != "/v1/secret/data/agents/key" {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"errors":["permission denied: %s"]}`, r.Header.Get("X-Vault-Token"))
			return
		}
		fmt.Fprintf(w, `{"data":{"data":{"key":%q},"metadata":{"version":1,"created_time":"2026-11-01T00:00:00Z","deletion_time":"","destroyed":false}}}`, secretsOf["a key in Vault"])
	}))
	t.Cleanup(vault.Close)
	files := filepath.Join(dir, "kept")
	if err := os.MkdirAll(files, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"key": secretsOf["a key in a file"], "vault.token": secretsOf["Vault's token"], "op.token": secretsOf["the command's token"],
		"split": secretsOf["a refused secret"] + "\nsecond line", "page": "<html>" + secretsOf["a refused secret"] + "</html>",
	} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool := filepath.Join(dir, "op")
	script := "#!/bin/sh\n[ \"$OP_TOKEN\" = '" + secretsOf["the command's token"] + "' ] && [ $1 = good ] && exec printf %s '" + secretsOf["a key of a command"] +
		"'\necho \"no: $OP_TOKEN\"; echo \"no: $OP_TOKEN\" >&2; exit 1\n"
	if err := os.WriteFile(tool, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("[secrets]\nfiles = [%q]\ninterval = \"10s\"\n[secrets.vault]\naddress = %q\ntoken_file = %q\n"+
		"[secrets.command.op]\nargv = [%q, \"{ref}\"]\nrefs = [\"*\"]\nenvironment_files = { OP_TOKEN = %q }\n",
		files, vault.URL, filepath.Join(files, "vault.token"), tool, filepath.Join(files, "op.token"))
}

func newTold(t *testing.T) *observed {
	t.Helper()
	x := &observed{hunt: newHunt(), port: freePort(t), bot: botapi.New(secretsOf["the bot's token"])}
	for what, secret := range secretsOf {
		x.know(what, secret)
	}
	bot := httptest.NewServer(x.bot)
	t.Cleanup(bot.Close)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		x.mu.Lock()
		defer x.mu.Unlock()
		x.saw("the webhook", fmt.Sprint(r.Header)+string(body))
	}))
	t.Cleanup(hook.Close)
	dir := t.TempDir()
	tokens := filepath.Join(dir, "api.tokens")
	if _, err := api.AddToken(tokens, "first"); err != nil {
		t.Fatal(err)
	}
	x.house = newEmptyHouse(t, nil, []simulator.Credential{
		{Name: "given", Secret: secretsOf["a key"]},
		{Name: "odd", Secret: secretsOf["an odd key"]},
		{Name: "file", Secret: secretsOf["a key in a file"]},
		{Name: "env", Secret: secretsOf["a key in a variable"]},
		{Name: "command", Secret: secretsOf["a key of a command"]},
		{Name: "vault", Secret: secretsOf["a key in Vault"]},
		{Name: "first", Secret: secretsOf["an access token"], RefreshToken: secretsOf["a refresh token"], AccountID: secretsOf["an extra header"]},
		{Name: "second", Secret: "at-nobody-has-this-one", RefreshToken: secretsOf["another refresh token"]},
	}, keptElsewhere(t, dir),
		fmt.Sprintf("[api]\nlisten = \"127.0.0.1:%d\"\ntoken_file = %q\n", x.port, tokens),
		fmt.Sprintf("[[notify.telegram]]\nname = \"team\"\ntoken = %q\nchat = %d\nserver = %q\ncommands = true\n", secretsOf["the bot's token"], chatID, bot.URL),
		fmt.Sprintf("[[notify.webhook]]\nname = \"ops\"\nurl = %q\nsecret = %q\n", hook.URL, secretsOf["the webhook's secret"]),
		"[log]\nlevel = \"debug\"\n")
	x.token = strings.TrimSpace(x.sluice("", "token", "ci", "--file", tokens))
	x.know("the API's token", x.token)
	x.restart()
	return x
}

// restart starts the daemon anew, with a secret in a variable of its own.
func (x *observed) restart() {
	x.t.Helper()
	if x.daemon.cmd != nil {
		x.saw("the log", x.daemon.log.String())
	}
	x.daemon.kill()
	x.start("env", "SLUICE_SECRET_KEY="+secretsOf["a key in a variable"])
}

// line runs a command that may fail, and keeps what it says.
func (x *observed) line(stdin string, args ...string) {
	x.t.Helper()
	var out bytes.Buffer
	x.operate(&out, &out, stdin, args...)
	x.saw("the command line", out.String())
}

// ask sends a request to the API, over TCP with a token or over the socket.
func (x *observed) ask(token, method, path, body string) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), 3*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if token == "" {
			network, address = "unix", x.socket
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}}
	r, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", x.port, path), strings.NewReader(body))
	if err != nil {
		x.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := client.Do(r)
	if err != nil {
		x.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body) // a stream ends with the context
	x.saw("the API's answer to "+method+" "+path, fmt.Sprint(answer.Status, answer.Header)+string(text))
}

// store stores every kind of credential.
func (x *observed) store() {
	jwt := func(claims string) string {
		part := base64.RawURLEncoding.EncodeToString
		return part([]byte(`{"alg":"none"}`)) + "." + part([]byte(claims)) + "." + part([]byte("signature"))
	}
	access := jwt(fmt.Sprintf(`{"exp":%d,"https://api.openai.com/auth":{"chatgpt_account_id":"acc"}}`, time.Now().Add(time.Hour).Unix()))
	idToken := jwt(`{"email":"somebody@example.com","n":"86023252670426"}`)
	x.know("Codex' access token", access)
	x.know("Codex' id token", idToken)
	x.sluice(secretsOf["a replaced key"], "cred", "add", "given")
	x.sluice(secretsOf["a key"], "cred", "update", "given")
	x.sluice(secretsOf["an odd key"], "cred", "add", "odd")
	kept := strings.TrimSuffix(keptIn(x), "/")
	x.sluice("", "cred", "add", "filed", "--from", "file:"+kept+"/key")
	x.sluice("", "cred", "add", "variable", "--from", "env:SLUICE_SECRET_KEY")
	x.sluice("", "cred", "add", "printed", "--from", "command:op:good")
	x.sluice("", "cred", "add", "vaulted", "--from", "vault:secret/agents/key#key")
	for _, from := range []string{"file:" + kept + "/split", "file:" + kept + "/page", "file:" + kept + "/none", "file:/etc/shadow", "command:op:bad", "vault:secret/agents/none#key", "env:PATH", secretsOf["a refused secret"]} {
		x.line("", "cred", "add", "refused", "--from", from)
	}
	x.addAccount("a1", secretsOf["an access token"], secretsOf["a refresh token"], secretsOf["an extra header"], time.Now().Add(time.Hour))
	x.addAccount("a2", "at-revoked", secretsOf["another refresh token"], "acc", time.Now().Add(time.Hour))
	x.write("codex.json", fmt.Sprintf(`{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":%q,"access_token":%q,"refresh_token":%q,"account_id":"acc"}}`, idToken, access, secretsOf["Codex' refresh token"]))
	x.sluice("", "cred", "import", "codex", filepath.Join(x.dir, "codex.json"), "--token-url", x.tokens, "--name", "imported")
	x.write("codexkey.json", fmt.Sprintf(`{"OPENAI_API_KEY":%q}`, secretsOf["Codex' key"]))
	x.sluice("", "cred", "import", "codex", filepath.Join(x.dir, "codexkey.json"), "--name", "codex-key")
	x.write("hermes.json", fmt.Sprintf(`{"credential_pool":{"openai":[{"id":"k","access_token":%q}],"openai-codex":[{"id":"o","auth_type":"oauth","access_token":%q,"refresh_token":%q}]}}`,
		secretsOf["Hermes' key"], secretsOf["Hermes' access token"], secretsOf["Hermes' refresh token"]))
	x.sluice("", "cred", "import", "hermes", filepath.Join(x.dir, "hermes.json"), "--token-url", x.tokens)
	x.sluice("", "pool", "create", "openai", "--members", "given,odd,filed,variable,printed,vaulted,codex-key", "--provider", "openai")
	x.sluice("", "pool", "create", "codex", "--members", "a1,a2,imported", "--provider", "codex")
}

func keptIn(x *observed) string {
	text, err := os.ReadFile(filepath.Join(x.dir, "config.toml"))
	if err != nil {
		x.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "files = [\"")
	dir, _, _ := strings.Cut(rest, "\"")
	return dir
}

// work has agents use all of it: answers, failover, echoes, refusals, refreshes, exhaustion.
func (x *observed) work() {
	agent := func(argv ...string) {
		x.t.Helper()
		cmd := x.agent(nil, append([]string{x.path, "run", "--user", "root", "--"}, argv...)...)
		out, _ := cmd.CombinedOutput()
		x.saw("what an agent got", string(out))
	}
	chat := func(args ...string) {
		agent(append([]string{"curl", "-sS", "-i", "-m", "30", "-H", "Content-Type: application/json", "-d", chatBody, "https://api.openai.com/v1/chat/completions"}, args...)...)
	}
	account := func() {
		agent("curl", "-sS", "-i", "-m", "30", "-H", "Content-Type: application/json", "-d", `{"model":"m","input":[]}`, "https://chatgpt.com/backend-api/codex/responses")
	}
	agent("env")
	for _, name := range []string{"given", "odd", "file", "env", "command", "vault"} {
		chat("--http1.1")
		secret := map[string]string{"given": "a key", "odd": "an odd key", "file": "a key in a file", "env": "a key in a variable", "command": "a key of a command", "vault": "a key in Vault"}[name]
		text, err := json.Marshal(map[string]string{"plain": secretsOf[secret], "base64": base64.StdEncoding.EncodeToString([]byte(secretsOf[secret]))})
		if err != nil {
			x.t.Fatal(err)
		}
		behaviour := simulator.Behaviour{Refusal: "custom", Status: 400, Header: map[string][]string{"Content-Type": {"application/json"}}, Body: string(text)}
		if err := x.sim.SetBehaviour(name, behaviour); err != nil {
			x.t.Fatal(err)
		}
		x.spend(name)
		chat("--http2") // its echo
		behaviour.Status = 401
		if name == "given" {
			behaviour.Status = 429
		}
		if err := x.sim.SetBehaviour(name, behaviour); err != nil {
			x.t.Fatal(err)
		}
		x.spend(name)
		chat("--http1.1") // its refusal, and the next one's answer
	}
	for range 2 {
		chat() // nobody is left
	}
	account()
	x.sluice("", "pool", "rotate", "codex")
	account() // the second's access token is not accepted, and refreshed
	x.sluice("", "pool", "rotate", "codex")
	account() // nor is the third's refresh token
	held := x.held()
	for _, token := range []string{held.RefreshToken, secretsOf["a refresh token"], secretsOf["a refused secret"]} {
		agent("curl", "-sS", "-i", "-m", "30", "-d", "grant_type=refresh_token&refresh_token="+strings.ReplaceAll(token, secretsOf["a refused secret"], "nobodys"), "https://auth.openai.com/oauth/token")
	}
	for name := range map[string]bool{"first": true, "second": true} {
		access, refresh := x.sim.Tokens(name)
		for i, token := range append(access, refresh) {
			if token != "" {
				x.know(fmt.Sprintf("token %d of %s", i, name), token)
			}
		}
	}
}

// misuse asks every route for what it refuses, with secrets in what is sent.
func (x *observed) misuse(doc *openapi3.T) {
	refused, err := json.Marshal(secretsOf["a refused secret"])
	if err != nil {
		x.t.Fatal(err)
	}
	secret := string(refused)
	for path, item := range doc.Paths.Map() {
		path = strings.NewReplacer("{name}", "nobody", "{credential}", "nobody", "{id}", "nobody").Replace(path)
		for method := range item.Operations() {
			x.ask(secretsOf["a wrong token"], method, path, "")
			if method == http.MethodGet || strings.HasSuffix(path, "/targets") && method == http.MethodDelete {
				continue
			}
			for _, body := range []string{secret, `{"nonesuch":` + secret + `}`, `{"secret":[` + secret + `]}`, `{"secret":` + secret[:len(secret)-1], `{"name":"x","secret":` + secret + `,"type":` + secret + `}`} {
				x.ask("", method, path, body)
			}
		}
	}
	for _, body := range []string{
		`{"name":"given","secret":` + secret + `}`, `{"name":"x y","secret":` + secret + `}`, `{"name":"x","type":"oauth","secret":` + secret + `}`,
		`{"name":"x","secret":"` + secretsOf["a refused secret"] + `\n"}`, `{"name":"x","oauth":{"access_token":` + secret + `}}`, `{"name":"x","source":` + secret + `}`,
		`{"name":"x","secret":"s","extra_headers":[{"name":"X-A","value":"` + secretsOf["a refused secret"] + `\n"}]}`,
	} {
		x.ask("", http.MethodPost, "/api/credentials", body)
		x.ask("", http.MethodPatch, "/api/credentials/odd", strings.Replace(body, `"name":"x",`, "", 1))
	}
	for _, stdin := range []string{secretsOf["a refused secret"] + "\nmore", strings.Repeat(secretsOf["a refused secret"], 4000), ""} {
		x.line(stdin, "cred", "add", "refused")
		x.line(stdin, "cred", "add", "refused", "--type", "oauth")
		x.line(stdin, "cred", "update", "nobody")
		x.line("", "cred", "add", "refused", "--extra-header", "X-Account "+"nothing")
	}
	said := len(x.bot.All())
	x.bot.Tell(chatID, "/cred_add work "+secretsOf["a secret in a chat"], time.Now())
	x.bot.Tell(chatID, "/credentials", time.Now())
	x.bot.Tell(chatID, "/events 100", time.Now())
	x.bot.Tell(chatID, "/cred_add chatted source=file:/etc/shadow", time.Now())
	x.until("the bot has answered", func() bool { return len(x.bot.All()) >= said+5 })
}

// look reads whatever there is to be read.
func (x *observed) look(doc *openapi3.T) {
	for path, item := range doc.Paths.Map() {
		if item.Get == nil {
			continue
		}
		for _, name := range []string{"openai", "codex", "nobody"} {
			x.ask("", http.MethodGet, strings.ReplaceAll(path, "{name}", name), "")
			x.ask(x.token, http.MethodGet, strings.ReplaceAll(path, "{name}", name), "")
		}
	}
	for _, args := range [][]string{
		{"events", "-n", "1000"},
		{"events", "-n", "1000", "-o", "json"},
		{"status", "-o", "json"},
		{"status"},
		{"cred", "list"},
		{"cred", "list", "-o", "json"},
		{"pool", "list", "-o", "json"},
		{"pool", "status", "openai"},
		{"pool", "status", "codex", "-o", "json"},
		{"targets", "-o", "json"},
		{"ca", "show"},
		{"audit", "verify", "--state-dir", filepath.Join(x.dir, "state")},
		{"doctor", "--config", filepath.Join(x.dir, "config.toml"), "--state-dir", filepath.Join(x.dir, "state")},
	} {
		x.line("", args...)
	}
	agent := x.agent(nil, x.path, "run", "--user", "root", "--", "sh", "-c", "echo up; exec sleep 30")
	var err bytes.Buffer
	agent.Stderr = &err
	out, failed := agent.StdoutPipe()
	if failed == nil {
		failed = agent.Start()
	}
	if failed == nil {
		_, failed = io.ReadFull(out, make([]byte, 2))
	}
	if failed != nil {
		x.t.Fatal(failed, err.String())
	}
	x.process(x.t, "the agent", agent.Process.Pid)
	_ = agent.Process.Kill()
	_ = agent.Wait()
	x.process(x.t, "the daemon", x.daemon.cmd.Process.Pid)
	x.files(x.t, filepath.Join(x.dir, "state"))
	x.saw("the log", x.daemon.log.String())
	for _, said := range x.bot.All() {
		x.saw("the chat", fmt.Sprint(said.Method, said.Fields))
	}
}

// under is what was seen in places that begin so.
func (h *hunt) under(where string) string {
	var all strings.Builder
	for place, text := range h.texts {
		if strings.HasPrefix(place, where) {
			all.WriteString(text)
		}
	}
	return all.String()
}

// TestNoSecretIsShown uses every kind of secret in every way, and looks for all of them
// wherever something is written, shown or said.
func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	x := newTold(t)
	doc, err := openapi3.NewLoader().LoadFromData(control.Document)
	if err != nil {
		t.Fatal(err)
	}
	x.store()
	x.work()
	x.misuse(doc)
	x.saw("the log", x.daemon.log.String())
	x.daemon.kill()
	x.line("", "vault", "rekey", "--state-dir", filepath.Join(x.dir, "state"))
	x.restart()
	x.work()
	x.look(doc)
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, what := range x.found() {
		t.Error(what)
	}
	// Each place was really looked at: what is no secret is there.
	for where, marks := range map[string][]string{
		"the log": {"credential added", "not done", "listening"}, "the command line": {"encrypted for a new identity", "cred_echoed", "cred_failover", "kernel"}, "the chat": {"pool_created", "was deleted"},
		"the webhook": {"pool_exhausted"}, "what an agent got": {"OPENAI_API_KEY=sk-", " 429 ", " 200 "}, "file /sluice.db": {"given"}, "file /audit/": {"pool_created"},
		"the API's answer to GET /metrics": {"sluice_"}, "the API's answer to GET /api/credentials": {"vaulted"}, "the API's answer to GET /api/events": {"cred_refresh"},
		"the API's answer to GET /api/pools/codex": {"agent_tokens"}, "the API's answer to POST /api/credentials": {"400", "409"}, "the API's answer to GET ": {"401", "429", "404"},
		"cmdline of the daemon": {"serve"}, "environ of the daemon": {"SLUICE_SOCKET", "SLUICE_SECRET_KEY=xxx"}, "cmdline of the agent": {"sleep"}, "environ of the agent": {"OPENAI_API_KEY"},
	} {
		for _, mark := range marks {
			if !strings.Contains(x.under(where), mark) {
				t.Errorf("%s was not looked at, or %q did not come to pass", where, mark)
			}
		}
	}
	// A secret in any of them would have been found.
	for _, where := range slices.Collect(maps.Keys(x.texts)) {
		clean := x.texts[where]
		x.saw(where, secretsOf["an odd key"])
		if len(x.found()) == 0 {
			t.Errorf("nothing would be found in %s", where)
		}
		x.texts[where] = clean
	}
}
