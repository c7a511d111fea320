package telegram

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/monitor"
	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/scripts/botapi"
)

const token = "123456:AAH-canary-token"

var _ monitor.Channel = (*Channel)(nil)

// TestChannel sends to a server that speaks the Bot API.
func TestChannel(t *testing.T) {
	t.Parallel()
	answer, status := `{"ok":true,"result":{"message_id":1,"chat":{"id":-100},"date":1}}`, http.StatusOK
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			t.Error(err)
		}
		asked <- r.URL.Path + " " + r.FormValue("chat_id") + " " + r.FormValue("text")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer server.Close()
	c, err := NewChannel(Options{Name: "ops", Token: token, Chat: -100, Server: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	n := notice.Notice{Text: `Pool "p" recovered.`}
	if err := c.Send(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if got, want := <-asked, "/bot"+token+"/sendMessage -100 "+n.Text; got != want {
		t.Errorf("asked for %q, want %q", got, want)
	}

	answer, status = `{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":17}}`, http.StatusTooManyRequests
	var later monitor.RetryAfterError
	if err := c.Send(t.Context(), n); !errors.As(err, &later) || later.RetryAfter() != 17*time.Second {
		t.Errorf("%v", err)
	}
	<-asked

	for _, seconds := range []string{"1000000000", "9223372036854775807"} {
		answer = `{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":` + seconds + `}}`
		if err := c.Send(t.Context(), n); !errors.As(err, &later) || later.RetryAfter() != time.Hour || !strings.Contains(err.Error(), seconds) {
			t.Errorf("%v, wait %s", err, later.RetryAfter())
		}
		<-asked
	}

	answer, status = `{"ok":false,"error_code":401,"description":"Unauthorized"}`, http.StatusUnauthorized
	if err := c.Send(t.Context(), n); err == nil || errors.As(err, &later) || strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
	<-asked

	server.Close()
	if err := c.Send(t.Context(), n); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
	if c.Name() != "telegram:ops" {
		t.Errorf("named %q", c.Name())
	}
	if _, err := NewChannel(Options{Name: "x"}); err == nil {
		t.Error("a bot without a token")
	}
}

// TestPauseIsBounded: whatever the Bot API asks for, the bot asks it again within the hour, and the log says so.
func TestPauseIsBounded(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"ok":false,"error_code":429,"description":"Too Many Requests","parameters":{"retry_after":1000000000}}`))
	}))
	defer server.Close()
	var log bytes.Buffer
	p := &patient{client: server.Client(), log: slog.New(slog.NewTextHandler(&log, nil))}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := p.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if wait := time.Until(p.until); wait <= 0 || wait > time.Hour {
		t.Errorf("waits for %s", wait)
	}
	if !strings.Contains(log.String(), "seconds=1000000000 kept=3600") {
		t.Errorf("log: %q", log.String())
	}
}

// onePool knows one pool.
type onePool struct{ status pool.PoolStatus }

func (p onePool) PoolStatus(_ context.Context, name string) (pool.PoolStatus, error) {
	if name != p.status.Name {
		return pool.PoolStatus{}, pool.NotFound("there is no pool %q", name)
	}
	return p.status, nil
}

// A notice begins with its sentence, says what the pool is like, and has the buttons
// that a bot understands.
func TestNoticeWithState(t *testing.T) {
	t.Parallel()
	api := botapi.New(token)
	server := httptest.NewServer(api)
	defer server.Close()
	p := onePool{pool.PoolStatus{Name: "p", State: pool.StateDegraded, Active: "b", Members: []pool.MemberStatus{
		{Name: "a", State: pool.MemberCooldown, Until: time.Now().Add(time.Hour), Reason: "rate limit (429)"}, {Name: "b", State: pool.MemberActive},
	}}}
	c, err := NewChannel(Options{Name: "ops", Token: token, Chat: -100, Server: server.URL, Pools: p, Buttons: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"p", "gone"} {
		n := notice.Notice{Text: "Pool failed over.", Event: pool.Event{Kind: pool.EventFailover, Pool: name}}
		if err := c.Send(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	// One that cannot be sent as it is would keep all that follow it back.
	if err := c.Send(t.Context(), notice.Notice{Text: strings.Repeat("long <b>&_* ", 1000)}); err != nil {
		t.Error(err)
	}
	all := api.All()
	if len(all) != 3 {
		t.Fatal(all)
	}
	first, second := all[0], all[1]
	text := first.Fields["text"]
	if !strings.HasPrefix(text, "Pool failed over.\n\nPool \"p\" is degraded, \"b\" is active.\n• a: cooldown, back in 1h") || buttons(t, first)["Rotate"] != mark(verbAskRotate, "p") {
		t.Errorf("%q, %v", text, buttons(t, first))
	}
	if second.Fields["text"] != "Pool failed over." || len(buttons(t, second)) != 0 {
		t.Errorf("%v", second.Fields)
	}
}
