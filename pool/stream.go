package pool

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strings"
)

// MaxFirstEvent is how much of a stream is looked at for a refusal, in bytes. OpenAI's opening repeats what it was asked, twice: the
// instructions and tools of an agent come to some tens of KiB.
const MaxFirstEvent = 128 << 10

// FirstEvent finds, while a stream comes in, the first event from which its agent has more than
// the news that an answer is under way. A refusal may come only behind those: until then another
// member can still give the answer.
type FirstEvent struct {
	provider string
	begin    int // where the event that is being read begins, and its last line
	line     int
	seen     int  // how far that is known not to have ended
	halfEnd  bool // the line before ended with a CR, to which an LF that comes next belongs
	named    bool // the event has a name
	opening  bool // and that is one of an opening
	hasData  bool
	came     bool
}

// NewFirstEvent returns one for a stream of a provider's.
func NewFirstEvent(provider string) FirstEvent { return FirstEvent{provider: provider} }

// opens says whether an event of this type is the opening of a stream, of which an agent has
// no output yet.
func (e *FirstEvent) opens(kind []byte) bool {
	switch string(kind) {
	case "ping", "message_start":
		return e.provider == "anthropic" || e.provider == "openrouter"
	case "response.created", "response.queued", "response.in_progress", "codex.rate_limits":
		return e.provider == "openai" || e.provider == "codex" || e.provider == "openrouter"
	}
	return false
}

// Came says whether the event is there whole, its blank line included. b is the stream so far: what
// it was the last time, which is not looked at again, and what has come since. Comments, and whatever
// else has no data, are no events (HTML, section 9.2.6): some upstreams say so that they are alive.
func (e *FirstEvent) Came(b []byte) bool {
	for !e.came {
		if e.halfEnd && e.seen < len(b) {
			e.halfEnd = false
			if b[e.seen] == '\n' {
				e.seen++
				e.line++
			}
		}
		i := bytes.IndexAny(b[e.seen:], "\r\n")
		if i < 0 {
			e.seen = len(b)
			return false
		}
		line := b[e.line : e.seen+i]
		e.seen += i + 1
		e.line, e.halfEnd = e.seen, b[e.seen-1] == '\r'
		e.take(line, b)
	}
	return true
}

// take goes on with a line of the event that is being read.
func (e *FirstEvent) take(line, b []byte) {
	if name, ok := bytes.CutPrefix(line, []byte("event:")); ok {
		name = bytes.TrimPrefix(name, []byte(" "))
		e.named, e.opening = string(name) != "message", e.opens(name) // "message" is what an event without a name is called
		return
	}
	e.hasData = e.hasData || bytes.HasPrefix(line, []byte("data:"))
	if len(line) > 0 {
		return
	}
	if e.hasData && !e.opening && (e.named || !e.typeOpens(b[e.begin:e.line])) {
		e.came = true
		return
	}
	e.begin, e.named, e.opening, e.hasData = e.line, false, false, false
}

// typeOpens says of an event without a name whether its data has the type of an opening. Nearly
// always nothing is parsed.
func (e *FirstEvent) typeOpens(event []byte) bool {
	for rest, found := event, false; ; {
		if _, rest, found = bytes.Cut(rest, []byte(`"type"`)); !found {
			return false
		}
		value, _ := bytes.CutPrefix(bytes.TrimLeft(rest, ": \t"), []byte(`"`))
		if kind, _, _ := bytes.Cut(value, []byte(`"`)); e.opens(kind) {
			break
		}
	}
	var data struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(eventData(event), &data) == nil && e.opens([]byte(data.Type)) // not of something within
}

// In is the event in the beginning of a stream, or what has come of it.
func (e *FirstEvent) In(b []byte) []byte {
	if e.Came(b) {
		return b[e.begin:e.line]
	}
	return b[e.begin:]
}

// refusals are the words for a refusal in an error's type, code or status, and the
// status that says the same outside of a stream.
func refusals() map[string]int {
	return map[string]int{
		"rate_limit_exceeded": http.StatusTooManyRequests, "rate_limit_error": http.StatusTooManyRequests,
		"rate_limited": http.StatusTooManyRequests, "rate_limit": http.StatusTooManyRequests,
		"too_many_requests": http.StatusTooManyRequests, "resource_exhausted": http.StatusTooManyRequests,
		"usage_limit_reached": http.StatusTooManyRequests,
		"insufficient_quota":  http.StatusTooManyRequests, "quota_exceeded": http.StatusTooManyRequests,
		"authentication_error": http.StatusUnauthorized, "invalid_api_key": http.StatusUnauthorized,
		"billing_error": http.StatusPaymentRequired,
		"429":           http.StatusTooManyRequests, "401": http.StatusUnauthorized, "402": http.StatusPaymentRequired,
	}
}

// RefusedInStream tells whether the [FirstEvent] of a stream that began with 200 is a
// refusal of the member, and then the status and the body with which it would have
// been one of the whole request.
func RefusedInStream(event []byte) (status int, body []byte, refused bool) {
	if !bytes.Contains(event, []byte(`"error"`)) { // nearly always: nothing is parsed
		return 0, nil, false
	}
	data := eventData(event)
	if len(data) == 0 {
		data = event // Gemini's may be an error as it is in an answer of its own
	}
	root, ok := parseBody(data)
	if !ok {
		return 0, nil, false
	}
	return refusedBy(root)
}

// RefusesInDocuments says of a call to a provider's API whether an answer with 200 may be a refusal: OpenRouter's, which has said
// 200 before its own upstream answers, and GitHub's in GraphQL, whose errors are data.
func RefusesInDocuments(provider string, target []byte) bool {
	path, _, _ := bytes.Cut(target, []byte("?"))
	return provider == "openrouter" || provider == "github" && string(path) == "/graphql"
}

// RefusedInDocument is the same as RefusedInStream for a JSON document that came with 200: an error in place of what
// was asked for, or of the one choice that there is.
func RefusedInDocument(body []byte) (status int, said []byte, refused bool) {
	if !bytes.Contains(body, []byte(`"error`)) { // nearly always: nothing is parsed
		return 0, nil, false
	}
	root, ok := parseBody(body)
	if !ok || root["data"] != nil {
		return 0, nil, false
	}
	for _, o := range [...]object{root, within(root["choices"])} {
		for _, key := range [...]string{"error", "errors"} {
			if fault := within(o[key]); fault != nil && !refused {
				status, said, refused = refusedBy(object{"error": map[string]any(fault)})
			}
		}
	}
	return status, said, refused
}

// RefusedInMessage is the same for a message of a WebSocket, which has no header of its own: of those that stand in for a
// refused request, as OpenAI's Responses API has them, "status" and "headers" are read, too.
func RefusedInMessage(message []byte) (a Answer, refused bool) {
	if !bytes.Contains(message, []byte(`"error"`)) {
		return a, false
	}
	root, ok := parseBody(message)
	if !ok {
		return a, false
	}
	a.Status, a.Body, refused = refusedBy(root)
	if !refused && text(root, "type") == "error" {
		if a.Status, refused = refusals()[cmp.Or(text(root, "status"), text(root, "status_code"))]; refused {
			a.Body = message
		}
	}
	fields := child(root, "headers")
	a.Header = make(http.Header, len(fields))
	for name := range fields {
		a.Header.Set(name, text(fields, name))
	}
	return a, refused
}

// refusedBy finds a refusal in an event or a message.
func refusedBy(root object) (status int, body []byte, refused bool) {
	said := child(root, "error")
	if response := child(root, "response"); said == nil {
		if said = child(response, "error"); said == nil {
			said = child(child(response, "status_details"), "error") // Realtime's response.done
		}
	}
	whole := object{}
	if said == nil && text(root, "type") == "error" {
		said = root
	} else {
		for key, v := range root { // a wait may stand beside the error; a response would be too long
			if written(v) != "" {
				whole[key] = v
			}
		}
	}
	known := refusals()
	for _, key := range []string{"type", "code", "status"} {
		if status, refused = known[strings.ToLower(text(said, key))]; refused {
			break
		}
	}
	if !refused {
		return 0, nil, false
	}
	whole["error"] = said
	body, err := json.Marshal(whole)
	return status, body, err == nil
}

// eventData joins the data lines of an event.
func eventData(event []byte) []byte {
	var data [][]byte
	for _, line := range bytes.FieldsFunc(event, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			data = append(data, bytes.TrimPrefix(value, []byte(" ")))
		}
	}
	return bytes.Join(data, []byte("\n"))
}
