package pool

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
)

// MaxFirstEvent is how much of a stream is looked at for a refusal.
const MaxFirstEvent = 16 << 10

// FirstEventEnd is where the first event in the beginning of an event stream ends, its
// blank line included; 0 if it has not come whole yet. Comments, and whatever else has
// no data, are no events (HTML, section 9.2.6): some upstreams say so that they are alive.
func FirstEventEnd(b []byte) int {
	hasData := false
	for at := 0; ; {
		i := bytes.IndexAny(b[at:], "\r\n")
		if i < 0 {
			return 0
		}
		line := b[at : at+i]
		at += i + 1
		if b[at-1] == '\r' && bytes.HasPrefix(b[at:], []byte("\n")) {
			at++
		}
		if len(line) == 0 && hasData {
			return at
		}
		hasData = hasData || bytes.HasPrefix(line, []byte("data:"))
	}
}

// refusals are the words for a refusal in an error's type, code or status, and the
// status that says the same outside of a stream.
func refusals() map[string]int {
	return map[string]int{
		"rate_limit_exceeded": http.StatusTooManyRequests, "rate_limit_error": http.StatusTooManyRequests,
		"too_many_requests": http.StatusTooManyRequests, "resource_exhausted": http.StatusTooManyRequests,
		"usage_limit_reached": http.StatusTooManyRequests,
		"insufficient_quota":  http.StatusTooManyRequests, "quota_exceeded": http.StatusTooManyRequests,
		"authentication_error": http.StatusUnauthorized, "invalid_api_key": http.StatusUnauthorized,
		"billing_error": http.StatusPaymentRequired,
		"429":           http.StatusTooManyRequests, "401": http.StatusUnauthorized, "402": http.StatusPaymentRequired,
	}
}

// RefusedInStream tells whether the first event of a stream that began with 200 is a
// refusal of the member, and then the status and the body with which it would have
// been one of the whole request.
func RefusedInStream(event []byte) (status int, body []byte, refused bool) {
	if !bytes.Contains(event, []byte(`"error"`)) { // nearly always: nothing is parsed
		return 0, nil, false
	}
	root, ok := parseBody(eventData(event))
	if !ok {
		return 0, nil, false
	}
	return refusedBy(root)
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
		if a.Status, refused = refusals()[text(root, "status")]; refused {
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
	if said == nil {
		said = child(child(root, "response"), "error")
	}
	if said == nil && text(root, "type") == "error" {
		said = root
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
	body, err := json.Marshal(object{"error": said})
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
