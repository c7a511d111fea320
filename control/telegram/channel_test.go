package telegram

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/monitor"
	"github.com/sluice-proxy/sluice/monitor/notice"
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
