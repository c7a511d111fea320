package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// addAccount adds an OAuth account as a person would, with what they have of it.
func (h *house) addAccount(name, access, refresh, id string, ends time.Time) {
	h.t.Helper()
	h.sluice(fmt.Sprintf(`{"access_token":%q,"refresh_token":%q,"expires_at":%q}`, access, refresh, ends.Format(time.RFC3339)),
		"cred", "add", name, "--type", "oauth", "--token-url", h.tokens, "--client-id", "app", "--extra-header", "chatgpt-account-id: "+id)
}

// TestAccountsAreRefreshed: an agent works on while its accounts' access tokens end or are
// revoked, and one that cannot be refreshed any more is said once.
func TestAccountsAreRefreshed(t *testing.T) {
	t.Parallel()
	const firstRefresh, secondRefresh = "rt-first-16180339", "rt-second-14142135"
	h := newEmptyHouse(t, nil, []simulator.Credential{
		{Name: "first", Secret: openaiFirst, RefreshToken: firstRefresh, AccountID: "account-1"},
		{Name: "second", Secret: openaiSecond, RefreshToken: secondRefresh, AccountID: "account-2"},
	})
	// The first account's access token has ended, the second's is one that was revoked.
	h.addAccount("a1", "at-ended-0577215664", firstRefresh, "account-1", time.Now().Add(-time.Hour))
	h.addAccount("a2", "at-revoked-0577215664", secondRefresh, "account-2", time.Now().Add(time.Hour))
	h.sluice("", "pool", "create", "codex", "--members", "a1,a2", "--provider", "codex")
	var told strings.Builder
	post := func(args ...string) string {
		got := h.output(append([]string{
			"curl", "-sS", "-i", "-m", "30", "-w", "\n%{http_code}\n", "-H", "Content-Type: application/json",
			"-d", `{"model":"m","input":[],"stream":true}`, "https://chatgpt.com/backend-api/codex/responses",
		}, args...)...)
		told.WriteString(got)
		return got
	}
	for _, version := range []string{"--http1.1", "--http2"} {
		if got := post(version); !strings.Contains(got, "\n200\n") {
			t.Fatal(got)
		}
	}
	h.sluice("", "pool", "rotate", "codex")
	for _, version := range []string{"--http2", "--http1.1"} {
		if got := post(version); !strings.Contains(got, "\n200\n") {
			t.Fatal(got)
		}
	}
	var asked []string
	for _, e := range h.sim.Journal().Since(0) {
		asked = append(asked, fmt.Sprintf("%s %s %d", e.Credential, strings.TrimPrefix(e.Path, "/backend-api/codex"), e.Status))
	}
	want := "first /oauth/token 200, first /responses 200, first /responses 200, " +
		" /responses 401, second /oauth/token 200, second /responses 200, second /responses 200"
	if got := strings.Join(asked, ", "); got != want {
		t.Errorf("the upstream saw %s\nwant %s", got, want)
	}
	// A restarted daemon goes on with what the endpoint gave.
	h.daemon.kill()
	h.start()
	if got := post(); !strings.Contains(got, "\n200\n") {
		t.Error(got)
	}

	// With its login ended for good the second account goes out, and that is said once.
	h.addAccount("a3", "at-revoked-0577215664", "rt-unknown-0577215664", "account-2", time.Now().Add(time.Hour))
	h.sluice("", "pool", "add-member", "codex", "a3")
	h.sluice("", "pool", "rotate", "codex") // to a3
	for range 3 {
		if got := post(); !strings.Contains(got, "\n200\n") {
			t.Error(got)
		}
	}
	events := h.sluice("", "events")
	if n := strings.Count(events, "cred_refresh_failed"); n != 1 {
		t.Errorf("said %d times: %s", n, events)
	}
	if status := h.sluice("", "pool", "status", "codex"); !strings.Contains(status, "invalid_grant") {
		t.Error(status)
	}

	// No token is anywhere but where it belongs.
	var secrets []string
	for _, name := range []string{"first", "second"} {
		access, refresh := h.sim.Tokens(name)
		secrets = append(append(secrets, access...), refresh)
	}
	secrets = append(secrets, firstRefresh, secondRefresh, "0577215664")
	texts := map[string]string{
		"what the agent got": told.String(), "the log": h.daemon.log.String(), "the events": events,
		"the credentials": h.sluice("", "cred", "list", "-o", "json"), "the status": h.sluice("", "pool", "status", "codex", "-o", "json"),
	}
	err := filepath.WalkDir(filepath.Join(h.dir, "state"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		texts[path] = string(text)
		return err
	})
	if err != nil || len(secrets) < 7 {
		t.Fatal(err, len(secrets))
	}
	for where, text := range texts {
		for _, secret := range secrets {
			if secret == "" || strings.Contains(text, secret) {
				t.Errorf("%s holds a token", where)
			}
		}
	}
}
