package pool

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"time"
)

// maxTokenAnswer is how much of a token endpoint's answer is read, in bytes.
const maxTokenAnswer = 1 << 20

// tolerant has whatever gives a token read, however odd it is: the refresh token is spent by
// then, and the account is lost with an answer that the library does not take.
type tolerant struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (t tolerant) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil || resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	closed := resp.Body.Close()
	if tokens := plainTokens(body); tokens != nil {
		resp.Header.Set("Content-Type", "application/json")
		body = tokens
	} else if err = errors.Join(err, closed); err != nil {
		return nil, err
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

// plainTokens is what an answer gives, as RFC 6749 section 5.1 has it; nil if it gives no
// access token. Some are forms, some JSON by another name, and of some the life is a text,
// a fraction, or no number at all.
func plainTokens(body []byte) []byte {
	said, ok := parseBody(body)
	if !ok {
		form, _ := url.ParseQuery(string(bytes.TrimSpace(body))) // what can be read of it
		said = make(object, len(form))
		for name := range form {
			said[name] = form.Get(name)
		}
	}
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token,omitempty"`
		Life    int64  `json:"expires_in,omitempty"`
	}
	tokens.Access, _ = said["access_token"].(string)
	tokens.Refresh, _ = said["refresh_token"].(string)
	if seconds, ok := parseNumber(text(said, "expires_in")); ok {
		tokens.Life = int64(min(seconds, math.MaxInt32))
	}
	if tokens.Access == "" {
		return nil
	}
	plain, err := json.Marshal(tokens)
	if err != nil { // strings and numbers only
		return nil
	}
	return plain
}

// endpointError is an answer of a token endpoint's that says nothing of the account.
type endpointError struct {
	said string
	wait time.Duration // for which it wants to be left alone, 0 if it does not say
}

func (e *endpointError) Error() string { return e.said }
