package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// TestNoticesAreSentOnce exhausts a pool and lets it recover, with a daemon that is
// killed in between and a webhook that refuses the first try of each notice.
func TestNoticesAreSentOnce(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef0123456789abcdef"
	texts := make(chan string, 16)
	refused := make(map[string]bool) // by seq
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Sluice-Signature") != notice.Sign([]byte(secret), r.Header.Get("Sluice-Timestamp"), body) {
			t.Errorf("not signed: %v", err)
		}
		if seq := r.Header.Get("Sluice-Seq"); !refused[seq] {
			refused[seq] = true
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var m struct{ Text string }
		if err := json.Unmarshal(body, &m); err != nil {
			t.Error(err)
		}
		texts <- m.Text
	}))
	defer hook.Close()
	h := newHouse(t, nil, fmt.Sprintf("[[notify.webhook]]\nname = \"ops\"\nurl = %q\nsecret = %q\n", hook.URL+"/x", secret))
	for _, name := range []string{"first", "second"} {
		if err := h.sim.Spend(name, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	const asks = `for i in 1 2 3 4 5 6; do curl -sS -o /dev/null -w '%{http_code}\n' -H "Authorization: Bearer $OPENAI_API_KEY" \
		-H 'Content-Type: application/json' -d "$1" https://api.openai.com/v1/chat/completions; done`
	if got := h.output("sh", "-c", asks, "sh", chatBody); got != strings.Repeat("429\n", 6) { // before the first is back
		t.Fatal(got)
	}
	h.daemon.kill()
	h.start()
	var got []string
	for range 3 {
		select {
		case text := <-texts:
			got = append(got, text[:strings.IndexAny(text, ";:")])
		case <-time.After(30 * time.Second):
			t.Fatalf("only %q", got)
		}
	}
	if want := []string{`Pool "openai" failed over from "a1" to "a2" after rate limit (429)`, `Pool "openai" exhausted`, `Pool "openai" recovered`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := h.chat("-d", chatBody); !strings.Contains(got, "\n200 ") {
		t.Error(got)
	}
	select {
	case text := <-texts:
		t.Errorf("one more: %s", text)
	case <-time.After(time.Second):
	}
}

// TestAHeldRequestIsAnswered exhausts a pool that holds requests: the agent waits and
// sees no 429.
func TestAHeldRequestIsAnswered(t *testing.T) {
	t.Parallel()
	h := newEmptyHouse(t, nil, []simulator.Credential{{Name: "only", Secret: openaiFirst}})
	h.sluice(openaiFirst, "cred", "add", "a1")
	h.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai", "--hold", "30s")
	if got := h.sluice("", "pool", "status", "openai"); !strings.Contains(got, "requests for up to 30s") {
		t.Error(got)
	}
	for _, version := range []string{"--http1.1", "--http2"} {
		if err := h.sim.Spend("only", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if got := h.chat(version, "-d", chatBody); !strings.Contains(got, "\n200 ") {
			t.Errorf("%s: %s", version, got)
		}
		if waited := time.Since(began); waited < 10*time.Second || waited > 20*time.Second { // a command has to start, too
			t.Errorf("%s: waited %s, want 10s", version, waited)
		}
	}
	if err := h.sim.Spend("only", time.Minute); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if got := h.chat("-d", chatBody); !strings.Contains(got, "\n429 ") || time.Since(began) > 20*time.Second {
		t.Errorf("not back in time: %s after %s", got, time.Since(began))
	}
}
