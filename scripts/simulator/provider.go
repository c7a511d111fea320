package simulator

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
)

// dialect is what differs between the providers in how they count and refuse.
type dialect struct {
	name string
	// refusal is the usual style.
	refusal string
	// limits are the header fields of a good answer.
	limits func(h http.Header, limit, left int, now time.Time)
	// failure is the body of an error.
	failure func(status int, kind, code, message string) any
	// event is how an error looks in the middle of a stream: the event's name, "" = none.
	event func(status int, body []byte) (name string, data []byte)
	// unauthorized is the answer to an unknown credential.
	unauthorized refusal
}

// dialect finds the provider by host, else by path.
func (v *visit) dialect() dialect {
	host, path := hostname(v.r), v.r.URL.Path
	switch {
	case host == "api.anthropic.com" || strings.HasPrefix(path, "/v1/messages"):
		return anthropicDialect()
	case host == "generativelanguage.googleapis.com" || strings.HasPrefix(path, "/v1beta/"):
		return geminiDialect()
	case host == "api.github.com":
		return githubDialect()
	case host == "openrouter.ai":
		d := openAIDialect()
		d.refusal = "openrouter"
		return d
	case strings.HasPrefix(path, "/backend-api/"):
		d := openAIDialect()
		d.refusal, d.limits = "codex", codexLimits
		return d
	}
	return openAIDialect()
}

// api finds what answers the request.
func (v *visit) api() func(*visit) {
	path := v.r.URL.Path
	post := v.r.Method == http.MethodPost
	switch {
	case path == tokenPath && post:
		return oauthToken
	case strings.HasSuffix(path, "/chat/completions") && post:
		return checked(chatCompletions)
	case strings.HasSuffix(path, "/files") && post:
		return checked(files)
	case strings.Contains(path, "/files/") && v.r.Method == http.MethodGet:
		return checked(file)
	case strings.HasSuffix(path, "/responses") && post:
		return checked(responses)
	case strings.HasSuffix(path, "/responses") && v.r.Method == http.MethodGet:
		return responsesUpgrade
	case path == "/v1/messages" && post:
		return checked(messages)
	case path == helloPath || path == helloLoginPath:
		return hello
	case path == "/v1/messages/count_tokens" && post:
		return checked(countTokens)
	case strings.HasSuffix(path, ":generateContent") && post:
		return checked(generateContent)
	case strings.HasSuffix(path, ":streamGenerateContent") && post:
		return checked(streamGenerateContent)
	case strings.HasSuffix(path, "/models") && (v.r.Method == http.MethodGet || v.r.Method == http.MethodHead):
		return checked(models)
	case path == accountsPath && v.r.Method == http.MethodGet:
		return recognised(accounts)
	case hostname(v.r) == "api.github.com":
		return checked(github)
	}
	return notFound
}

func notFound(v *visit) {
	v.json(http.StatusNotFound, v.dialect().failure(http.StatusNotFound, "invalid_request_error", "unknown_url",
		"Unknown request URL: "+v.r.Method+" "+v.r.URL.Path+". Please check the URL for typos."))
}

// checked lets only those through who have a good credential and quota left.
func checked(handle func(*visit)) func(*visit) {
	return recognised(func(v *visit) {
		if v.refused() {
			return
		}
		v.dialect().limits(v.Header(), v.verdict.Limit, v.verdict.Left, v.now)
		handle(v)
	})
}

// recognised lets only those through who have a good credential.
func recognised(handle func(*visit)) func(*visit) {
	return func(v *visit) {
		wrongAccount := v.verdict.Account != "" && strings.HasPrefix(v.r.URL.Path, "/backend-api/") &&
			v.r.Header.Get("Chatgpt-Account-Id") != v.verdict.Account
		if !v.known || v.verdict.Expired || wrongAccount {
			v.refuse(v.dialect().unauthorized)
			return
		}
		handle(v)
	}
}

// refused waits as long as the credential's behaviour wants and says whether
// the request was refused, and with that answered.
func (v *visit) refused() bool {
	b := v.verdict.Behaviour
	if !v.pause(time.Duration(b.Delay)) {
		return true
	}
	if !v.verdict.Refused {
		return false
	}
	style := b.Refusal
	if style == "" {
		style = v.dialect().refusal
	}
	v.note(func(e *Entry) { e.Refusal, e.Until = style, v.verdict.Until })
	if b.InStream && !b.Early {
		var body json.RawMessage
		if !v.read(&body) {
			return true
		}
		var asked struct {
			Stream bool `json:"stream"`
		}
		_ = json.Unmarshal(body, &asked) // whoever answers says what is wrong with it
		switch {
		case asked.Stream && b.InStreamAfter > 0:
			v.refusal = style
			v.r.Body = io.NopCloser(bytes.NewReader(body))
			v.r.Header.Del("Content-Encoding")
			return false
		case asked.Stream:
			v.refuseInStream(style)
			return true
		}
	} else if !b.Early && !v.drain() {
		return true
	}
	if style == styleCustom {
		v.refuse(refusal{Status: b.Status, Header: b.Header, Body: b.Body})
		return true
	}
	v.refuse(styles()[style](v.verdict.Limit, v.verdict.Until.Sub(v.now), v.now))
	return true
}

// refuse sends a refusal.
func (v *visit) refuse(r refusal) {
	if !strings.HasPrefix(v.r.URL.Path, "/v1/messages") {
		v.Header().Set("X-Request-Id", requestID("req_", v.seq))
	} else {
		v.Header().Set("Request-Id", requestID("req_", v.seq))
	}
	if r.Body != "" {
		v.Header().Set("Content-Type", "application/json")
	}
	for name, values := range r.Header {
		v.Header()[http.CanonicalHeaderKey(name)] = values
	}
	v.WriteHeader(r.Status)
	_, _ = v.Write([]byte(r.Body))
}

// drain reads the body to its end; false = the client went away.
func (v *visit) drain() bool {
	buf := make([]byte, 64<<10)
	for {
		if _, err := v.r.Body.Read(buf); err != nil {
			return v.r.Context().Err() == nil
		}
	}
}
