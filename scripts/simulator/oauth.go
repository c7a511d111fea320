package simulator

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const tokenPath = "/oauth/token"

// tokenAnswer is RFC 6749 section 5.1.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
}

// oauthToken is POST /oauth/token with grant_type=refresh_token: each refresh
// token is good for one answer.
func oauthToken(v *visit) {
	asked, ok := v.tokenRequest()
	if !ok {
		v.json(http.StatusBadRequest, oauthError("invalid_request", "The body is neither a form nor a JSON object."))
		return
	}
	v.note(func(e *Entry) { e.Grant = asked.Get("grant_type") })
	if asked.Get("grant_type") != "refresh_token" {
		v.json(http.StatusBadRequest, oauthError("unsupported_grant_type", "Only refresh_token is."))
		return
	}
	tokens, name, ok := v.sim.ledger.refreshToken(asked.Get("refresh_token"), v.now)
	v.verdict.Credential = name
	v.note(func(e *Entry) { e.Credential = name })
	if !ok {
		v.json(http.StatusBadRequest, oauthError("invalid_grant", "The refresh token is unknown or has been used."))
		return
	}
	v.Header().Set("Cache-Control", "no-store")
	v.json(http.StatusOK, tokens)
}

// oauthError is RFC 6749 section 5.2.
func oauthError(code, description string) any {
	return map[string]string{"error": code, "error_description": description}
}

// tokenRequest takes a form, as the RFC wants it, or JSON, as Codex sends it.
func (v *visit) tokenRequest() (url.Values, bool) {
	body, err := io.ReadAll(io.LimitReader(v.r.Body, 1<<20))
	if err != nil {
		return nil, false
	}
	if !strings.HasPrefix(v.r.Header.Get("Content-Type"), "application/json") {
		form, err := url.ParseQuery(string(body))
		return form, err == nil
	}
	var object map[string]string
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, false
	}
	form := make(url.Values, len(object))
	for name, value := range object {
		form.Set(name, value)
	}
	return form, true
}

// refreshToken consumes a refresh token. name is the account's even when the
// token had been used before.
func (l *ledger) refreshToken(token string, now time.Time) (t tokenAnswer, name string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name, ok = l.refresh[token]
	if !ok {
		return t, l.consumed[token], false
	}
	delete(l.refresh, token)
	l.consumed[token] = name
	good := time.Duration(l.entries[name].credential.ExpiresIn)
	if good == 0 {
		good = time.Hour
	}
	t = tokenAnswer{
		AccessToken: newJWT(name, l.entries[name].credential.AccountID, now.Add(good)), RefreshToken: "rt_" + rand.Text(),
		IDToken: newJWT(name, l.entries[name].credential.AccountID, now.Add(good)), TokenType: "Bearer",
		ExpiresIn: int64(good / time.Second),
	}
	l.access[t.AccessToken] = grant{name: name, expires: now.Add(good)}
	l.refresh[t.RefreshToken] = name
	return t, name, true
}

// newJWT has the shape and the claims of a real one; its signature is random.
func newJWT(subject, account string, expires time.Time) string {
	part := func(value any) string { return base64.RawURLEncoding.EncodeToString([]byte(text(value))) }
	return part(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + part(map[string]any{
		"iss": "https://auth.openai.com", "sub": subject, "exp": expires.Unix(), "jti": rand.Text(),
		"https://api.openai.com/auth": map[string]string{"chatgpt_account_id": account, "chatgpt_plan_type": "plus"},
	}) + "." + base64.RawURLEncoding.EncodeToString([]byte(rand.Text()+rand.Text()))
}

// Tokens returns what an account's next refresh has to present and what its
// requests may carry now, for a test that has to start in the middle.
func (s *Simulator) Tokens(name string) (access []string, refresh string) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for token, g := range s.ledger.access {
		if g.name == name {
			access = append(access, token)
		}
	}
	for token, owner := range s.ledger.refresh {
		if owner == name {
			refresh = token
		}
	}
	return access, refresh
}
