package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

var responseID = regexp.MustCompile(`resp_[0-9a-f]+`)

// post sends JSON to a path of OpenAI's API.
func (h *house) post(path, body string, args ...string) string {
	h.t.Helper()
	return h.output(append([]string{
		"curl", "-sS", "-m", "30", "-w", "\n%{http_code}\n", "-H", "Content-Type: application/json",
		"-d", body, "https://api.openai.com" + path,
	}, args...)...)
}

// by checks that the requests after seq were served by one member each, in order.
func (h *house) by(seq uint64, want ...string) {
	h.t.Helper()
	for i, e := range h.seen(seq, len(want)) {
		if e.Credential != want[i] {
			h.t.Errorf("%s %s was sent with %s, want %s", e.Method, e.Path, e.Credential, want[i])
		}
	}
}

// TestConversationsStayWithTheirAccount: what one account holds is asked of that one,
// while everything else goes to whoever is active.
func TestConversationsStayWithTheirAccount(t *testing.T) {
	t.Parallel()
	needs(t, "node", "curl")
	h := newHouse(t, nil)
	last := func() uint64 { return h.sim.Journal().Last() }

	before := last()
	stored := responseID.FindString(h.post("/v1/responses", `{"model":"m","input":"hi"}`))
	streamed := responseID.FindString(h.post("/v1/responses", `{"model":"m","input":"hi","stream":true}`, "--http1.1"))
	upload := h.output("curl", "-sS", "-m", "30", "-F", "purpose=user_data", "-F", "file=@/etc/hosts", "https://api.openai.com/v1/files")
	var file struct{ ID string }
	if err := json.Unmarshal([]byte(upload), &file); err != nil || stored == "" || streamed == "" {
		t.Fatalf("%q, %q, %s: %v", stored, streamed, upload, err)
	}
	h.by(before, "first", "first", "first")

	h.sluice("", "pool", "rotate", "openai")
	tied := map[string]func() string{
		"previous response": func() string {
			return h.post("/v1/responses", fmt.Sprintf(`{"model":"m","input":"on","previous_response_id":%q}`, stored))
		},
		"of a stream, over HTTP/1.1": func() string {
			return h.post("/v1/responses", fmt.Sprintf(`{"input":"on","model":"m","previous_response_id":%q}`, streamed), "--http1.1")
		},
		"a long one": func() string {
			h.write("long.json", fmt.Sprintf(`{"model":"m","input":%q,"previous_response_id":%q}`, strings.Repeat("on ", 700_000), stored))
			return h.post("/v1/responses", "@"+h.dir+"/long.json", "--http1.1")
		},
		"file by path": func() string { return h.post("/v1/files/"+file.ID, "", "-G") },
		"sdk":          func() string { return h.output("node", sdk(t, "openai.mjs"), "go-on:"+stored) + "\n200\n" },
	}
	for name, ask := range tied {
		before := last()
		if got := ask(); !strings.Contains(got, "\n200\n") || strings.Contains(got, `"error":"`) {
			t.Errorf("%s: %s", name, got)
		}
		h.by(before, "first")
	}
	// Reasoning of the active member is its own, too, and a new conversation is anybody's.
	before = last()
	if got := h.output("node", sdk(t, "openai.mjs"), "think"); !strings.Contains(got, simulator.DefaultText) || !strings.Contains(got, `"items":2`) {
		t.Error(got)
	}
	h.by(before, "second", "second")

	// The daemon forgets nothing.
	h.daemon.kill()
	h.start()
	before = last()
	if got := tied["previous response"](); !strings.Contains(got, "\n200\n") {
		t.Error(got)
	}
	h.by(before, "first")

	// And when the account is out, the answer names it, once the other one has said that it does not know.
	h.spend("first")
	for _, asked := range [][]string{{"first", "second"}, {"second"}} {
		before = last()
		got := tied["previous response"]()
		if !strings.Contains(got, "\n429\n") || !strings.Contains(got, `\"a1\"`) || !strings.Contains(got, "previous_response_id") {
			t.Errorf("not said who is out, and why nobody else will do: %s", got)
		}
		h.by(before, asked...)
	}
	before = last()
	if got := h.post("/v1/responses", `{"model":"m","input":"hi"}`); !strings.Contains(got, "\n200\n") {
		t.Error(got)
	}
	h.by(before, "second")
}
