package simulator

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"
)

// refusal is an answer that says no.
type refusal struct {
	Status int
	Header map[string][]string
	Body   string
}

const styleCustom = "custom"

// style makes a refusal that ends after wait.
type style = func(limit int, wait time.Duration, now time.Time) refusal

// Styles lists the names of the refusals, besides "custom".
func Styles() []string {
	all := styles()
	names := make([]string, 0, len(all)+1)
	for name := range all {
		names = append(names, name)
	}
	sort.Strings(names)
	return append(names, styleCustom)
}

// styles are the refusals as the providers send them.
func styles() map[string]style {
	return map[string]style{
		// No provider in particular.
		"retry-after": func(_ int, wait time.Duration, _ time.Time) refusal {
			return refusal{429, fields("Retry-After", seconds(wait)), `{"error":{"message":"Too many requests"}}`}
		},
		"retry-after-date": func(_ int, wait time.Duration, now time.Time) refusal {
			return refusal{429, fields("Retry-After", now.Add(wait+time.Second-1).UTC().Format(http.TimeFormat)), ""}
		},
		"bare":         func(int, time.Duration, time.Time) refusal { return refusal{429, nil, ""} },
		"server-error": func(int, time.Duration, time.Time) refusal { return refusal{500, nil, serverError} },
		"unavailable":  func(int, time.Duration, time.Time) refusal { return refusal{503, nil, serverError} },

		"openai":              openAIRequests,
		"openai-tokens":       openAITokens,
		"openai-quota":        openAIQuota,
		"openai-unauthorized": func(int, time.Duration, time.Time) refusal { return openAIUnauthorized() },
		"codex":               codexBody,
		"codex-headers":       codexHeaders,
		"openrouter":          openRouter,

		"anthropic":              anthropicRequests,
		"anthropic-unified":      anthropicUnified,
		"anthropic-overloaded":   anthropicOverloaded,
		"anthropic-unauthorized": func(int, time.Duration, time.Time) refusal { return anthropicUnauthorized() },

		"gemini":         geminiRetryInfo,
		"gemini-per-day": geminiPerDay,

		"github":           githubPrimary,
		"github-secondary": githubSecondary,
	}
}

const serverError = `{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}`

// fields pairs names and values.
func fields(pairs ...string) map[string][]string {
	h := make(map[string][]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		h[pairs[i]] = append(h[pairs[i]], pairs[i+1])
	}
	return h
}

// seconds is whole seconds, rounded up.
func seconds(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }

// epoch is a Unix time in seconds, rounded up.
func epoch(t time.Time) string { return strconv.FormatInt(t.Add(time.Second-1).Unix(), 10) }

// goDuration is how OpenAI and Groq write a reset: 1m12s, 57.3s, 120ms.
func goDuration(d time.Duration) string { return d.Round(time.Millisecond).String() }

func text(value any) string {
	body, err := json.Marshal(value)
	if err != nil { // only values that this package made
		return `{}`
	}
	return string(body)
}

func requestID(prefix string, seq uint64) string { return fmt.Sprintf("%s%024x", prefix, seq) }

// refuseInStream says 200 and then, as the first event, no.
func (v *visit) refuseInStream(name string) {
	v.stream().send(v.refusalEvent(name))
}

// refusalEvent is a refusal as an event of a stream, and of an answer of the Responses API that has begun, as its end.
func (v *visit) refusalEvent(name string) (event string, data []byte) {
	b := v.verdict.Behaviour
	no := refusal{Status: b.Status, Header: b.Header, Body: b.Body}
	if name != styleCustom {
		no = styles()[name](v.verdict.Limit, v.verdict.Until.Sub(v.now), v.now)
	}
	switch {
	case !strings.HasSuffix(v.r.URL.Path, "/responses"):
		return v.dialect().event(no.Status, []byte(no.Body))
	case b.InStreamAfter > 0:
		return v.responsesFailed([]byte(no.Body))
	}
	return responsesError([]byte(no.Body))
}
