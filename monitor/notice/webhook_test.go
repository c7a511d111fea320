package notice

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

var exhausted = Notice{
	Text:  "Pool \"p\" exhausted.",
	Event: pool.Event{Seq: 7, Kind: pool.EventExhausted, Pool: "p", Member: "b", Members: 2, Time: time.Unix(1795455000, 0), Until: time.Unix(1795458600, 0)},
}

func TestWebhookIsSigned(t *testing.T) {
	t.Parallel()
	secret := []byte("0123456789abcdef")
	var got map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if want := Sign(secret, r.Header.Get("Sluice-Timestamp"), body); r.Header.Get("Sluice-Signature") != want {
			t.Errorf("signature %q, want %q", r.Header.Get("Sluice-Signature"), want)
		}
		if r.Header.Get("Sluice-Seq") != "7" || r.Header.Get("Content-Type") != "application/json" || r.Method != http.MethodPost {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	w, err := NewWebhook("ops", server.URL+"/hook", secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), exhausted); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"text": exhausted.Text, "seq": 7.0, "kind": "pool_exhausted", "pool": "p", "member": "b", "members": 2.0,
		"time": "2026-11-23T17:30:00Z", "until": "2026-11-23T18:30:00Z",
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if w.Name() != "webhook:ops" {
		t.Errorf("named %q", w.Name())
	}
}

// TestSignature holds the signature to one made by hand:
// printf '1795455000.{}' | openssl dgst -sha256 -hmac key
func TestSignature(t *testing.T) {
	t.Parallel()
	const want = "sha256=ff26e2d7c17b610d7ef467f041d7dd6a0d1cbd7bbe21ba8434c414f737fed8e9"
	if got := Sign([]byte("key"), "1795455000", []byte("{}")); got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestWebhookRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status     int
		retryAfter string
		wait       time.Duration
	}{
		"busy":           {429, "120", 2 * time.Minute},
		"for ever":       {503, "99999999", time.Hour},
		"unreadable":     {503, "soon", 0},
		"an error":       {500, "", 0},
		"a redirection":  {302, "", 0},
		"not authorized": {401, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "http://127.0.0.1:1/")
				w.Header().Set("Retry-After", c.retryAfter)
				w.WriteHeader(c.status)
			}))
			defer server.Close()
			w, err := NewWebhook("x", server.URL+"/secret-path", nil)
			if err != nil {
				t.Fatal(err)
			}
			err = w.Send(t.Context(), exhausted)
			var refused *refusedError
			if !errors.As(err, &refused) || refused.status != c.status || refused.RetryAfter() != c.wait {
				t.Fatalf("%v, wait %s; want %d, %s", err, refused.RetryAfter(), c.status, c.wait)
			}
		})
	}
}

func TestWebhookErrorsKeepTheURL(t *testing.T) {
	t.Parallel()
	const secret = "hook-secret-3141592"
	w, err := NewWebhook("x", "http://127.0.0.1:1/"+secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), exhausted); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("error %v", err)
	}
	for _, bad := range []string{"", "ftp://h/" + secret, "http:///" + secret, secret, "https://" + secret + "\x00", "http://[::1/" + secret} {
		if _, err := NewWebhook("x", bad, nil); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

// TestService sends through the library to a server that speaks ntfy's way of posting.
func TestService(t *testing.T) {
	t.Parallel()
	posted := make(chan string, 1)
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posted <- r.URL.Path + " " + string(body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"id":"x","error":"no"}`)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	s, err := NewService("phone", "ntfy://"+host+"/topic-2718281828?scheme=http")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), exhausted); err != nil {
		t.Fatal(err)
	}
	if got := <-posted; !strings.HasPrefix(got, "/topic-2718281828 ") || !strings.Contains(got, exhausted.Text) {
		t.Errorf("posted %q", got)
	}
	status = http.StatusForbidden
	if err := s.Send(t.Context(), exhausted); err == nil || strings.Contains(err.Error(), "2718281828") || strings.Contains(err.Error(), host) {
		t.Errorf("error %v", err)
	}
	if _, err := NewService("x", "nonesuch://token-1234567@host"); err == nil || strings.Contains(err.Error(), "1234567") {
		t.Errorf("error %v", err)
	}
}

func TestNoPartOfAServicesURLIsRepeated(t *testing.T) {
	t.Parallel()
	secrets := []string{"us3rnm", "pa55wd", "relay.example", "topic77", "tk_1234", "frag-1"}
	target := "ntfy://us3rnm:pa55wd@relay.example/topic77?auth=tk_1234#frag-1"
	got := redact(errors.New("cannot be reached: "+strings.Join(secrets, ", ")), target).Error()
	for _, s := range secrets {
		if strings.Contains(got, s) {
			t.Errorf("%q has %q", got, s)
		}
	}
}
