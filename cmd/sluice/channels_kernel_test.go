package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/scripts/botapi"
)

const (
	botToken = "123456:AAH-canary-token"
	chatID   = int64(-100200)
)

// channels are the three ways to one daemon.
type channels struct {
	*house
	bot  *botapi.Server
	said int
	rest http.Client
}

func newChannels(t *testing.T, open func(*testing.T, certificate, ...string) *house) *channels {
	t.Helper()
	bot := botapi.New(botToken)
	server := httptest.NewServer(bot)
	t.Cleanup(server.Close)
	c := &channels{bot: bot, house: open(t, nil, fmt.Sprintf(
		"[[notify.telegram]]\nname = \"team\"\ntoken = %q\nchat = %d\nserver = %q\ncommands = true\n", botToken, chatID, server.URL))}
	c.rest.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.socket)
	}}
	t.Cleanup(c.rest.CloseIdleConnections)
	return c
}

// overREST sends a request and returns the error's message, if there is one.
func (c *channels) overREST(method, path, body string) string {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, "http://sluice"+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.rest.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var e api.Error
	if answer.StatusCode >= 400 && json.Unmarshal(text, &e) != nil {
		c.t.Errorf("%s %s: %d %s", method, path, answer.StatusCode, text)
	}
	return e.Error.Message
}

// onLine runs a command and returns its error, without what the command line puts
// before it: which command it was.
func (c *channels) onLine(args ...string) string {
	c.t.Helper()
	var stderr bytes.Buffer
	if c.operate(io.Discard, &stderr, "", args...) == exitDone {
		return ""
	}
	return strings.TrimSpace(stderr.String())
}

// inChat writes a message, presses Yes if there is a question, and returns why it was
// not done.
func (c *channels) inChat(text string) string {
	c.t.Helper()
	c.bot.Tell(chatID, text, time.Now())
	for {
		answer := c.next()
		buttons, err := answer.Buttons()
		if err != nil {
			c.t.Error(err)
		}
		if buttons["Yes"] == "" {
			why, refused := strings.CutPrefix(answer.Fields["text"], "Not done: ")
			if !refused {
				return ""
			}
			why, _, _ = strings.Cut(why, "\n")
			return why
		}
		c.bot.Press(chatID, buttons["Yes"])
	}
}

func (c *channels) next() botapi.Asked {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	answer, err := c.bot.Said(ctx, c.said)
	if err != nil {
		c.t.Fatal(err)
	}
	c.said++
	return answer
}

// news are the events after seq, as what happened and who asked.
func (c *channels) news(seq *int64) (what, who string) {
	c.t.Helper()
	var events []api.Event
	if err := json.Unmarshal([]byte(c.sluice("", "events", "-n", "200", "-o", "json")), &events); err != nil {
		c.t.Fatal(err)
	}
	for _, e := range events {
		if e.Seq > *seq {
			*seq = e.Seq
			what += fmt.Sprintf("%s pool=%s member=%s to=%s target=%s detail=%s\n", e.Kind, e.Pool, e.Member, e.To, e.Target, e.Detail)
			who = e.Actor
		}
	}
	return what, who
}

// transcript is what became of a step: why it was refused, what the log says.
type transcript struct{ why, what string }

// TestEveryChannel does the same by REST, on the command line and in a chat, with
// one daemon: each time the same happens, the same is logged but for who asked, and
// what is refused is refused in the same words.
func TestEveryChannel(t *testing.T) {
	t.Parallel()
	c := newChannels(t, func(t *testing.T, change certificate, config ...string) *house {
		return newEmptyHouse(t, change, nil, config...)
	})
	for _, name := range []string{"a", "b", "spare"} {
		c.sluice("sk-canary-"+name, "cred", "add", name)
	}
	c.sluice("{\"access_token\":\"canary-1\",\"refresh_token\":\"canary-2\",\"expires_at\":\"2030-01-02T03:04:05Z\"}",
		"cred", "add", "acc", "--type", "oauth", "--token-url", "https://auth.example/token")
	cgroup := kerneltest.Cgroup(t)
	steps := []struct {
		method, path, body string
		line               []string
		chat               string
	}{
		{"POST", "/api/pools", `{"name":"p","members":["a","b"],"provider":"openai"}`, []string{"pool", "create", "p", "--members", "a,b", "--provider", "openai"}, "/pool_create p members=a,b provider=openai"},
		{"POST", "/api/pools/p/rotate", "", []string{"pool", "rotate", "p"}, "/rotate p"},
		{"POST", "/api/pools/p/clear", "", []string{"pool", "clear", "p"}, "/clear p"},
		{"POST", "/api/pools/p/clear", `{"member":"a"}`, []string{"pool", "clear", "p", "a"}, "/clear p a"},
		{"POST", "/api/pools/p/members/spare", "", []string{"pool", "add-member", "p", "spare"}, "/member_add p spare"},
		{"POST", "/api/pools/p/auth-reset-target", `{"target":"openai"}`, []string{"pool", "set-auth-reset", "p", "openai"}, "/auth_reset_set p openai"},
		{"POST", "/api/pools/p/auth-reset-target", `{"target":""}`, []string{"pool", "set-auth-reset", "p", "--clear"}, "/auth_reset_clear p"},
		{"DELETE", "/api/pools/p/members/spare", "", []string{"pool", "remove-member", "p", "spare"}, "/member_remove p spare"},
		{"DELETE", "/api/pools/p", "", []string{"pool", "remove", "p"}, "/pool_remove p"},
		{"PATCH", "/api/credentials/acc", `{"token_url":"https://other.example/t"}`, []string{"cred", "update", "acc", "--keep-secret", "--token-url", "https://other.example/t"}, "/cred_update acc token_url=https://other.example/t"},
		{"POST", "/api/targets", `{"cgroup":"` + cgroup + `"}`, []string{"attach", "--cgroup", cgroup}, "/attach cgroup=" + cgroup},
		{"DELETE", "/api/targets", "", []string{"detach", "--all"}, "/detach_all"},
		// What is refused.
		{"POST", "/api/pools/nobody/rotate", "", []string{"pool", "rotate", "nobody"}, "/rotate nobody"},
		{"DELETE", "/api/pools/nobody", "", []string{"pool", "remove", "nobody"}, "/pool_remove nobody"},
		{"POST", "/api/pools", `{"name":"q","members":["nobody"],"provider":"openai"}`, []string{"pool", "create", "q", "--members", "nobody", "--provider", "openai"}, "/pool_create q members=nobody provider=openai"},
		{"POST", "/api/pools", `{"name":"q","members":["a","a"],"provider":"openai"}`, []string{"pool", "create", "q", "--members", "a,a", "--provider", "openai"}, "/pool_create q members=a,a provider=openai"},
		{"POST", "/api/pools", `{"name":"a","members":["b"],"provider":"openai"}`, []string{"pool", "create", "a", "--members", "b", "--provider", "openai"}, "/pool_create a members=b provider=openai"},
		{"POST", "/api/pools", `{"name":"q","members":["b"],"provider":"nonesuch"}`, []string{"pool", "create", "q", "--members", "b", "--provider", "nonesuch"}, "/pool_create q members=b provider=nonesuch"},
		{"PATCH", "/api/credentials/a", `{"token_url":"https://x.example/t"}`, []string{"cred", "update", "a", "--keep-secret", "--token-url", "https://x.example/t"}, "/cred_update a token_url=https://x.example/t"},
		{"DELETE", "/api/credentials/spaer", "", []string{"cred", "remove", "spaer"}, "/cred_remove spaer"}, // did you mean "spare"?
		{"DELETE", "/api/credentials/nobody", "", []string{"cred", "remove", "nobody"}, "/cred_remove nobody"},
		{"POST", "/api/targets", `{"cgroup":"/nowhere"}`, []string{"attach", "--cgroup", "/nowhere"}, "/attach cgroup=/nowhere"},
		{"POST", "/api/targets", `{"unit":"nonesuch-71ac.service"}`, []string{"attach", "--unit", "nonesuch-71ac.service"}, "/attach unit=nonesuch-71ac.service"},
		{"POST", "/api/targets", `{"selector":"no value"}`, []string{"attach", "--selector", "no value"}, "/attach selector=\"no value\""},
		{"DELETE", "/api/targets/00000000", "", []string{"detach", "00000000"}, "/detach 00000000"},
	}
	var seq int64
	c.news(&seq)
	want := make([]transcript, len(steps)) // over REST
	for way, ask := range []func(int) string{
		func(i int) string { return c.overREST(steps[i].method, steps[i].path, steps[i].body) },
		func(i int) string { return c.onLine(steps[i].line...) },
		func(i int) string { return c.inChat(steps[i].chat) },
	} {
		for i, step := range steps {
			why := ask(i)
			what, who := c.news(&seq)
			if way == 0 {
				want[i] = transcript{why, what}
			}
			if what != want[i].what {
				t.Errorf("%v, way %d: %q happened, and over REST %q", step.line, way, what, want[i].what)
			}
			if !strings.HasSuffix(why, want[i].why) || (why == "") != (want[i].why == "") {
				t.Errorf("%v, way %d: refused with %q, and over REST with %q", step.line, way, why, want[i].why)
			}
			if strings.Contains(step.path, "spaer") && !strings.HasSuffix(why, `did you mean "spare"?`) {
				t.Errorf("%v, way %d: refused with %q", step.line, way, why)
			}
			if (why == "") != (what != "") || what != "" && !strings.HasPrefix(who, []string{"unix:0/root", "unix:0/root", "telegram:-100200/42@kim"}[way]) {
				t.Errorf("%v, way %d: %q by %q, refused with %q", step.line, way, what, who, why)
			}
		}
	}
	if log := c.daemon.log.String(); strings.Contains(log, "canary") {
		t.Error("a secret or the bot's token is in the daemon's log")
	}
	c.sluice("", "audit", "verify", "--state-dir", filepath.Join(c.dir, "state"))
}

// TestNoticeInChat has a pool fail over while the Bot API is down: the notice comes
// once when it is back, says what the pool is like, and its buttons work.
func TestNoticeInChat(t *testing.T) {
	t.Parallel()
	c := newChannels(t, newHouse)
	var down atomic.Bool
	down.Store(true)
	tried := make(chan struct{}, 100)
	c.bot.Refuse(func(method string) (int, int) {
		if !down.Load() {
			return 0, 0
		}
		if method == "sendMessage" {
			tried <- struct{}{}
		}
		return http.StatusBadGateway, 0
	})
	if err := c.sim.Spend("first", time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := c.chat("-d", chatBody); !strings.Contains(got, "\n200 ") {
		t.Fatal(got)
	}
	<-tried
	down.Store(false)
	refused := len(tried) + 1
	c.said = refused // each refused try is a request of the bot's, too
	notice := c.next()
	text := notice.Fields["text"]
	if !strings.HasPrefix(text, `Pool "openai" failed over from "a1" to "a2" after rate limit (429)`) || !strings.Contains(text, "\n• a1: cooldown, back in ") {
		t.Errorf("the notice is %q", text)
	}
	buttons, err := notice.Buttons()
	if err != nil {
		t.Fatal(err)
	}
	c.bot.Press(chatID, buttons["Clear"])
	question, err := c.next().Buttons()
	if err != nil {
		t.Fatal(err)
	}
	c.bot.Press(chatID, question["Yes"])
	if done := c.next(); !strings.HasPrefix(done.Fields["text"], "Cleared.") || strings.Contains(done.Fields["text"], "cooldown") {
		t.Errorf("%v", done.Fields)
	}
	sent := 0
	for _, x := range c.bot.All() {
		if x.Method == "sendMessage" {
			sent++
		}
	}
	if sent != refused+1 {
		t.Errorf("%d messages, %d of them refused: the notice came more than once", sent, refused)
	}
	if log := c.daemon.log.String(); strings.Contains(log, "canary") {
		t.Error("the bot's token is in the daemon's log")
	}
}
