package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

const chatBody = `{"model":"m","messages":[{"role":"user","content":"hello"}]}`

// chat asks as curl does; the status is the last line.
func (h *house) chat(args ...string) string {
	h.t.Helper()
	needs(h.t, "curl")
	script := `exec curl -sS --max-time 20 -w '\n%{http_code} %{http_version}\n' -H "Authorization: Bearer $OPENAI_API_KEY" ` +
		`-H 'Content-Type: application/json' "$@" https://api.openai.com/v1/chat/completions`
	return h.output(append([]string{"sh", "-c", script, "sh"}, args...)...)
}

func script(t *testing.T, name string) string {
	t.Helper()
	needs(t, map[string]string{".py": "python3", ".mjs": "node"}[filepath.Ext(name)])
	path, err := filepath.Abs(filepath.Join("testdata", "clients", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func sdk(t *testing.T, name string) string {
	t.Helper()
	needs(t, "node")
	path, err := filepath.Abs(filepath.Join("..", "..", "scripts", "clients", name))
	if err == nil {
		_, err = os.Stat(filepath.Join(filepath.Dir(path), "node_modules", ".package-lock.json"))
	}
	if err != nil {
		lacking(t, "the SDKs are not installed, scripts/deps.sh does it: %v", err)
	}
	return path
}

// TestClients lets clients that people use ask through the whole of sluice. None of
// them is told anything: they hold a placeholder and trust what they always trust.
func TestClients(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	has := func(t *testing.T, got string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in: %s", want, got)
			}
		}
	}
	for _, c := range []struct {
		name     string
		ask      func(t *testing.T) string
		wants    []string
		requests int
		member   string
		proto    string
	}{
		{"environment", func(*testing.T) string { return h.output("env") }, []string{"\nOPENAI_API_KEY=", "\nANTHROPIC_API_KEY="}, 0, "", ""},
		{"curl http1.1", func(*testing.T) string { return h.chat("--http1.1", "-d", chatBody) }, []string{simulator.DefaultText, "\n200 1.1\n"}, 1, "first", "HTTP/1.1"},
		{"curl http2", func(*testing.T) string { return h.chat("--http2", "-d", chatBody) }, []string{simulator.DefaultText, "\n200 2\n"}, 1, "first", "HTTP/2.0"},
		{"curl http1.1 streaming", func(*testing.T) string {
			return h.chat("--http1.1", "--no-buffer", "-d", strings.Replace(chatBody, "{", `{"stream":true,`, 1))
		}, []string{"data: [DONE]", "\n200 1.1\n"}, 1, "first", "HTTP/1.1"},
		{"curl http2 streaming", func(*testing.T) string {
			return h.chat("--http2", "--no-buffer", "-d", strings.Replace(chatBody, "{", `{"stream":true,`, 1))
		}, []string{"data: [DONE]", "\n200 2\n"}, 1, "first", "HTTP/2.0"},
		{"python urllib", func(t *testing.T) string { return h.output("python3", script(t, "chat_urllib.py")) }, []string{"200 " + simulator.DefaultText}, 1, "first", "HTTP/1.1"},
		{"python http.client", func(t *testing.T) string { return h.output("python3", script(t, "chat_httpclient.py")) }, []string{"200 True " + simulator.DefaultText}, 2, "first", "HTTP/1.1"},
		{"node fetch", func(t *testing.T) string { return h.output("node", script(t, "fetch.mjs")) }, []string{"200 " + simulator.DefaultText, "200 true"}, 2, "first", "HTTP/1.1"},
		{"openai sdk", func(t *testing.T) string {
			return h.output("node", sdk(t, "openai.mjs"), "chat", "chat-stream", "responses", "responses-stream", "models")
		}, []string{`"finish":"stop"`, `"finish":"completed"`, simulator.DefaultText}, 5, "first", "HTTP/1.1"},
		{"anthropic sdk", func(t *testing.T) string {
			return h.output("node", sdk(t, "anthropic.mjs"), "messages", "messages-stream", "count")
		}, []string{`"finish":"end_turn"`, simulator.DefaultText, `"tokens":`}, 3, "ant-first", "HTTP/1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer h.in(t)()
			before := h.sim.Journal().Last()
			got := c.ask(t)
			has(t, got, c.wants...)
			if strings.Contains(got, `"error"`) {
				t.Errorf("an error: %s", got)
			}
			for _, e := range h.seen(before, c.requests) {
				if e.Credential != c.member || e.Proto != c.proto || e.Status != 200 {
					t.Errorf("%s %s with %s over %s: %d, want %s over %s", e.Method, e.Path, e.Credential, e.Proto, e.Status, c.member, c.proto)
				}
			}
		})
	}
}

// TestClientsFailOver has the first member refused: the clients see an answer and
// nothing else. Then the second as well: they see one 429, in their provider's words.
func TestClientsFailOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	for _, c := range []struct {
		name          string
		ask           func(t *testing.T) string
		good, refused []string
		first, second string
		pool          string
	}{
		{
			"curl http1.1", func(*testing.T) string { return h.chat("--http1.1", "-d", chatBody, "-D", "-") },
			[]string{"\n200 1.1\n"},
			[]string{"\n429 1.1\n", "Retry-After: 6", "Sluice-Pool: openai", `"rate_limit_exceeded"`},
			"first", "second", "openai",
		},
		{
			"curl http2", func(*testing.T) string { return h.chat("--http2", "-d", chatBody, "-D", "-") },
			[]string{"\n200 2\n"},
			[]string{"\n429 2\n", "retry-after: 6", "sluice-pool: openai", `"rate_limit_exceeded"`},
			"first", "second", "openai",
		},
		{
			"python urllib", func(t *testing.T) string { return h.output("python3", script(t, "chat_urllib.py")) },
			[]string{"200 " + simulator.DefaultText},
			[]string{"429 6", "rate_limit_exceeded"},
			"first", "second", "openai",
		},
		{
			"node fetch", func(t *testing.T) string { return h.output("node", script(t, "fetch.mjs"), "stream") },
			[]string{"200 true"},
			[]string{"429 false"},
			"first", "second", "openai",
		},
		{
			"openai sdk", func(t *testing.T) string { return h.output("node", sdk(t, "openai.mjs"), "chat-stream") },
			[]string{simulator.DefaultText},
			[]string{`"error":"RateLimitError","status":429`, `"retry_after":"6`},
			"first", "second", "openai",
		},
		{
			"anthropic sdk", func(t *testing.T) string { return h.output("node", sdk(t, "anthropic.mjs"), "messages-stream") },
			[]string{simulator.DefaultText},
			[]string{`"error":"RateLimitError","status":429,"type":"rate_limit_error"`, `"retry_after":"6`},
			"ant-first", "ant-second", "claude",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer h.in(t)()
			h.sluice("", "pool", "clear", c.pool)
			expect := func(wants []string, statuses map[string]int) {
				t.Helper()
				before := h.sim.Journal().Last()
				got := c.ask(t)
				for _, want := range wants {
					if !strings.Contains(got, want) {
						t.Errorf("no %q in: %s", want, got)
					}
				}
				for _, e := range h.seen(before, len(statuses)) {
					if statuses[e.Credential] != e.Status {
						t.Errorf("%s was answered %d, want %d", e.Credential, e.Status, statuses[e.Credential])
					}
				}
			}
			active, other := c.first, c.second
			if h.active(c.pool) != active {
				active, other = other, active
			}
			h.spend(active)
			expect(c.good, map[string]int{active: 429, other: 200})
			h.spend(other)
			expect(c.refused, map[string]int{other: 429})
			expect(c.refused, nil) // and nothing is sent at all
			for _, name := range []string{active, other} {
				if err := h.sim.Restore(name); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// active is who gets the next request of a pool, by the upstream's name.
func (h *house) active(pool string) string {
	h.t.Helper()
	var status struct{ Active string }
	if err := json.Unmarshal([]byte(h.sluice("", "pool", "status", pool, "-o", "json")), &status); err != nil {
		h.t.Fatal(err)
	}
	return map[string]string{"a1": "first", "a2": "second", "c1": "ant-first", "c2": "ant-second"}[status.Active]
}

// spend has a member refuse for 699 s: a hint of it begins with a 6 for longer than a client takes to start.
func (h *house) spend(name string) {
	h.t.Helper()
	if err := h.sim.Spend(name, 699*time.Second); err != nil {
		h.t.Fatal(err)
	}
}

// in makes a subtest the one that failures belong to.
func (h *house) in(t *testing.T) (out func()) {
	outer := h.t
	h.t = t
	return func() { h.t = outer }
}

// largeChat is a request of at least n bytes whose text has no short period.
func largeChat(t *testing.T, n int64) []byte {
	t.Helper()
	text, err := io.ReadAll(simulator.Payload(n / 2))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(strings.Replace(chatBody, "hello", hex.EncodeToString(text), 1))
}

// TestLargeBodyIsReplayed sends 20 MiB that the first member refuses after it has
// read them: the second gets the same bytes.
func TestLargeBodyIsReplayed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	name, want := filepath.Join(h.dir, "body"), sha256.New()
	body := largeChat(t, 20<<20)
	want.Write(body)
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, client := range [][]string{{"--http1.1"}, {"--http2"}, {"python3", script(t, "upload.py")}} {
		h.sluice("", "pool", "clear", "openai")
		for _, member := range []string{"first", "second"} {
			if err := h.sim.Restore(member); err != nil {
				t.Fatal(err)
			}
		}
		refused := h.active("openai")
		h.spend(refused)
		before := h.sim.Journal().Last()
		var got string
		if len(client) == 1 {
			got = h.chat(client[0], "--data-binary", "@"+name)
		} else {
			got = h.output(append(client, name)...)
		}
		if !strings.Contains(got, "\n200 ") {
			t.Errorf("%s: %.300s", client, got)
		}
		entries := h.seen(before, 2)
		for i, e := range entries {
			if e.BodyBytes != int64(len(body)) || e.BodySHA256 != hex.EncodeToString(want.Sum(nil)) {
				t.Errorf("%s: attempt %d with %s brought %d bytes, hash %s", client, i, e.Credential, e.BodyBytes, e.BodySHA256)
			}
		}
		if entries[0].Credential != refused || entries[0].Status != 429 || entries[1].Credential == refused {
			t.Errorf("%s: %s was answered %d, then %s", client, entries[0].Credential, entries[0].Status, entries[1].Credential)
		}
	}
}

// TestStreamsThatBeginWithARefusal has the active member answer 200 and then, as the
// first event, no: the SDKs see the next member's stream and nothing else.
func TestStreamsThatBeginWithARefusal(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	for _, c := range []struct{ name, script, call, first, second string }{
		{"openai chat", "openai.mjs", "chat-stream", "first", "second"},
		{"openai responses", "openai.mjs", "responses-stream", "second", "first"},
		{"anthropic", "anthropic.mjs", "messages-stream", "ant-first", "ant-second"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer h.in(t)()
			h.sluice("", "pool", "clear", "openai")
			for _, name := range []string{c.first, c.second} {
				if err := h.sim.SetBehaviour(name, simulator.Behaviour{InStream: name == c.first}); err != nil {
					t.Fatal(err)
				}
			}
			h.spend(c.first)
			before := h.sim.Journal().Last()
			got := h.output("node", sdk(t, c.script), c.call)
			if !strings.Contains(got, simulator.DefaultText) || strings.Contains(got, `"error"`) {
				t.Errorf("%s", got)
			}
			entries := h.seen(before, 2)
			if entries[0].Credential != c.first || entries[0].Status != 200 || entries[1].Credential != c.second {
				t.Errorf("%s was answered %d, then %s", entries[0].Credential, entries[0].Status, entries[1].Credential)
			}
		})
	}
}
