package notice

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// sendLimit is how long one notice may take.
	sendLimit = 30 * time.Second
	// maxRetryAfter bounds what a server's Retry-After is taken for.
	maxRetryAfter = time.Hour
)

// Webhook posts notices as JSON to a URL. Each request carries
//
//	Sluice-Seq:       the event's seq, by which a receiver can tell a repetition
//	Sluice-Timestamp: Unix seconds of the attempt
//	Sluice-Signature: "sha256=" and the hex HMAC-SHA256, keyed with the secret, of
//	                  the timestamp, a dot and the body
//
// A 2xx is taken for received; a redirection is not followed. The rest is tried
// again, and not before the server's Retry-After.
type Webhook struct {
	name   string
	url    string
	secret []byte
	client *http.Client
}

// NewWebhook makes the channel "webhook:" + name. The secret may be empty: the
// requests are then not signed.
func NewWebhook(name, target string, secret []byte) (*Webhook, error) {
	u, err := url.Parse(target)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		// What is wrong with it is not repeated: URLs of hooks are secrets.
		return nil, errors.New("it is no URL of the form https://host/path")
	}
	return &Webhook{name: "webhook:" + name, url: target, secret: secret, client: &http.Client{
		Timeout:       sendLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Name is the channel's.
func (w *Webhook) Name() string { return w.name }

// message is what a webhook gets: the sentence, and the event as the API shows it.
type message struct {
	Text    string     `json:"text"`
	Seq     int64      `json:"seq"`
	Time    time.Time  `json:"time"`
	Kind    string     `json:"kind"`
	Pool    string     `json:"pool"`
	Member  string     `json:"member"`
	To      string     `json:"to,omitempty"`
	Target  string     `json:"target"`
	Reason  string     `json:"reason"`
	Until   *time.Time `json:"until,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
	Members int        `json:"members,omitempty"`
}

func encode(n Notice) ([]byte, error) {
	e := n.Event
	return json.Marshal(message{
		Text: n.Text, Seq: e.Seq, Time: e.Time.UTC(), Kind: string(e.Kind), Pool: e.Pool, Member: e.Member, To: e.To,
		Target: e.Target, Reason: e.Reason, Until: known(e.Until), Since: known(e.Since), Members: e.Members,
	})
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Send posts the notice.
func (w *Webhook) Send(ctx context.Context, n Notice) error {
	body, err := encode(n)
	if err != nil {
		return fmt.Errorf("encode a notice: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("make a request: the URL is not usable")
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "sluice")
	req.Header.Set("Sluice-Seq", strconv.FormatInt(n.Event.Seq, 10))
	req.Header.Set("Sluice-Timestamp", stamp)
	if len(w.secret) > 0 {
		req.Header.Set("Sluice-Signature", Sign(w.secret, stamp, body))
	}
	resp, err := w.client.Do(req)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // the wrapper repeats the URL, which is a secret
		}
		return fmt.Errorf("post: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	if resp.StatusCode/100 == 2 {
		return nil
	}
	return &refusedError{status: resp.StatusCode, wait: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

// Sign is the value of the Sluice-Signature field.
func Sign(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// refusedError is an answer that is not 2xx.
type refusedError struct {
	status int
	wait   time.Duration
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("post: the server answered %d %s", e.status, http.StatusText(e.status))
}

// RetryAfter is the least time to wait, by the server's word.
func (e *refusedError) RetryAfter() time.Duration { return e.wait }

// retryAfter reads a Retry-After field (RFC 9110, section 10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return max(0, min(wait, maxRetryAfter))
}
