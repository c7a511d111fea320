package exchange

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/sluice-proxy/sluice/pool"
)

// Tokens knows the token endpoints of bound pools. *pool.Keeper does.
type Tokens interface {
	// TokenEndpoint says whether a request's target is one.
	TokenEndpoint(r pool.Route, target string) bool
	// RevocationEndpoint says whether it is where the tokens of one are given up.
	RevocationEndpoint(r pool.Route, target string) bool
	// StandIn is the answer to a request that names one of the values, all of them
	// placeholders: no if none of the values is a placeholder or a member's token.
	StandIn(values []string) (answer []byte, known bool)
}

// maxTokenBody is how long a token request or its answer may be: larger ones cannot be
// looked at as a whole, and are not passed on.
const maxTokenBody = 64 << 10

var errTokenBody = errors.New("longer than a token request is")

// tokenBody keeps a body to be looked at.
type tokenBody struct{ text []byte }

// Write implements [io.Writer].
func (b *tokenBody) Write(p []byte) (int, error) {
	if len(b.text)+len(p) > maxTokenBody {
		return 0, errTokenBody
	}
	b.text = append(b.text, p...)
	return len(p), nil
}

// tokenValues are all texts in a JSON document, each of several with the same name
// too; ok is false if it is none.
func tokenValues(text []byte) (values []string, ok bool) {
	if !json.Valid(text) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return values, err == io.EOF
		}
		if s, isText := token.(string); isText {
			values = append(values, s)
		}
	}
}

// formValues are the values of a form's fields.
func formValues(text string) (values []string, fields url.Values) {
	fields, _ = url.ParseQuery(text) // what can be read of it
	for _, v := range fields {
		values = append(values, v...)
	}
	return values, fields
}

// tokenRequest is what was read of a request to a token endpoint.
type tokenRequest struct {
	target string
	body   []byte // decoded
}

// values are the texts that it names, and its grant type.
func (r *tokenRequest) values() (values []string, grant string) {
	_, query, _ := strings.Cut(r.target, "?")
	values, _ = formValues(query)
	if found, ok := tokenValues(r.body); ok {
		var said struct {
			Grant string `json:"grant_type"`
		}
		_ = json.Unmarshal(r.body, &said)
		return append(values, found...), said.Grant
	}
	found, fields := formValues(string(r.body))
	return append(values, found...), fields.Get("grant_type")
}

// oauthError is an error of RFC 6749 section 5.2.
func oauthError(status int, code, reason string) localAnswer {
	body, _ := json.Marshal(map[string]string{"error": code, "error_description": "sluice: " + reason})
	return localAnswer{status: status, contentType: "application/json", body: append(body, '\n'), noStore: true}
}

// judgeTokens decides on a token request: nil passes it on as it is.
func (a *attempts) judgeTokens(r *tokenRequest) *localAnswer {
	values, grant := r.values()
	body, known := a.x.opts.Tokens.StandIn(values)
	var answer localAnswer
	switch {
	case known && a.revokes:
		// To a client it is over, as it wants (RFC 7009 section 2.2); the account is the pool's.
		a.x.counts.tokensAnswered.Add(1)
		answer = localAnswer{status: http.StatusOK, contentType: "application/json", body: []byte("{}\n"), noStore: true}
	case known && (grant == "" || grant == "refresh_token"):
		a.x.counts.tokensAnswered.Add(1)
		answer = localAnswer{status: http.StatusOK, contentType: "application/json", body: body, noStore: true}
	case known:
		a.x.counts.tokensRefused.Add(1)
		answer = oauthError(http.StatusBadRequest, "unsupported_grant_type", "the account is in a pool, which gives placeholders for refresh_token only")
	case a.x.opts.RefuseUnknownTokens:
		a.x.counts.tokensRefused.Add(1)
		answer = oauthError(http.StatusBadRequest, "unauthorized_client", "only placeholders are taken here, as it is configured")
	default:
		return nil
	}
	return &answer
}

// readTokens is judgeTokens for a body as it came: what cannot be looked at as a whole
// is not passed on.
func (a *attempts) readTokens(target, encoding string, raw []byte) *localAnswer {
	text := decode(raw, encoding, maxTokenBody+1)
	if len(text) > maxTokenBody {
		return a.tooLong()
	}
	if len(raw) > 0 && len(text) == 0 {
		a.x.counts.tokensRefused.Add(1)
		answer := oauthError(http.StatusUnsupportedMediaType, "invalid_request", "the request is encoded in a way that cannot be read")
		return &answer
	}
	return a.judgeTokens(&tokenRequest{target: target, body: text})
}

// bareFor notes whether a request goes out without a member, and says whether it is for
// a token endpoint, or for the one where tokens are given up.
func (a *attempts) bareFor(target string) bool {
	a.tokens = a.x.opts.Tokens.TokenEndpoint(a.route, target)
	a.revokes = a.x.opts.Tokens.RevocationEndpoint(a.route, target)
	a.bare = a.route.Bare || a.tokens || a.revokes
	return a.tokens || a.revokes
}

// tooLong refuses what cannot be looked at.
func (a *attempts) tooLong() *localAnswer {
	a.x.counts.tokensRefused.Add(1)
	answer := oauthError(http.StatusRequestEntityTooLarge, "invalid_request", "the request is longer than a token request is")
	return &answer
}

// judgeTokenAnswer decides on the answer to a token request that was passed on: nil
// passes it on, too. encoding is its Content-Encoding, kind its Content-Type.
func (a *attempts) judgeTokenAnswer(status int, kind, encoding string, raw []byte) *localAnswer {
	text := decode(raw, encoding, maxTokenBody+1)
	values, ok := tokenValues(text)
	if !ok && strings.HasPrefix(strings.ToLower(kind), "application/x-www-form-urlencoded") {
		values, _ = formValues(string(text))
		ok = len(values) > 0
	}
	body, known := a.x.opts.Tokens.StandIn(values)
	good := status >= 200 && status <= 299
	var answer localAnswer
	switch {
	case good && len(raw) > 0 && (!ok || len(text) > maxTokenBody):
		answer = oauthError(http.StatusBadGateway, "server_error", "the token endpoint's answer cannot be read, and may hold tokens")
	case known && good:
		answer = localAnswer{status: status, contentType: "application/json", body: body, noStore: true}
	case known:
		answer = oauthError(http.StatusBadGateway, "server_error", "the token endpoint's answer repeats a token of the pool's")
	default:
		return nil
	}
	a.x.counts.tokensWithheld.Add(1)
	return &answer
}

func never([]byte) bool { return false }

// answerTokens answers a request in a token endpoint's place, if need be.
func (cl *client) answerTokens(a *attempts) (*localAnswer, error) {
	if !cl.route.Tokens || cl.x.opts.Tokens == nil || !a.bareFor(string(cl.req.targetBytes())) {
		return nil, nil
	}
	var body tokenBody
	var long error
	err := cl.readWhole(func(p []byte) {
		if _, err := body.Write(p); err != nil {
			long = err
		}
	})
	if err != nil {
		return nil, err
	}
	if long != nil || !cl.body.complete() {
		return a.tooLong(), nil
	}
	return a.readTokens(string(cl.req.targetBytes()), string(cl.req.contentEncoding()), body.text), nil
}

// withhold answers in the place of a token answer that must not be passed on.
func (cl *client) withhold(up *upstreamConn, a *attempts) *localAnswer {
	if !a.tokens {
		return nil
	}
	raw := cl.lookAhead(up, cl.x.opts.AnswerTimeout, maxTokenBody+1, never)
	h := &cl.resp
	return a.judgeTokenAnswer(h.status, string(h.contentType()), string(h.contentEncoding()), raw)
}

// answerTokens is the same for HTTP/2; done says that there is nothing left to do.
func (s *stream) answerTokens(a *attempts) (done bool) {
	r := s.r
	if !s.cl.route.Tokens || s.cl.x.opts.Tokens == nil || !a.bareFor(r.RequestURI) {
		return false
	}
	var body tokenBody
	var answer *localAnswer
	err := s.body.readAhead(&body)
	switch {
	case errors.Is(err, errTokenBody) || err == nil && !s.body.ended():
		answer = a.tooLong()
	case err != nil:
		s.cl.x.counts.canceled.Add(1)
		panic(http.ErrAbortHandler) // the client's body failed: it has gone
	default:
		answer = a.readTokens(r.RequestURI, r.Header.Get("Content-Encoding"), body.text)
	}
	if answer != nil {
		s.cl.writeLocal(s.w, *answer)
	}
	return answer != nil
}

// withhold is the same for HTTP/2.
func (s *stream) withhold(resp *http.Response, a *attempts) bool {
	if !a.tokens {
		return false
	}
	raw := s.lookAhead(resp, s.cl.x.opts.AnswerTimeout, maxTokenBody+1, never)
	answer := a.judgeTokenAnswer(resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header.Get("Content-Encoding"), raw)
	if answer == nil {
		return false
	}
	_ = resp.Body.Close()
	s.cl.writeLocal(s.w, *answer)
	return true
}
