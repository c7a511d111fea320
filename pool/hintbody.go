package pool

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// parseBody reads a JSON error: an object, or the first object of an array, as
// streaming endpoints wrap theirs, or either as the data of an event stream, as others
// do. Anything else, HTML above all, is not looked at.
func parseBody(body []byte) (object, bool) {
	cut := len(body) >= MaxAnswerBody
	body = bytes.TrimPrefix(body[:min(len(body), MaxAnswerBody)], []byte("\ufeff")) // RFC 8259 section 8.1: may be ignored
	body = bytes.TrimSpace(body)
	for _, field := range [...]string{"data:", "event:", "id:", "retry:", ":"} {
		if bytes.HasPrefix(body, []byte(field)) {
			body = bytes.TrimSpace(eventData(body)) // of which the first value is read
			break
		}
	}
	if len(body) == 0 || body[0] != '{' && body[0] != '[' {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // a number keeps its digits: 1e400 must be seen for what it is
	var root any
	if d.Decode(&root) != nil {
		if !cut {
			return nil, false
		}
		d = json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		root, _ = beginning(d, int64(len(body)), maxFaults*2)
	}
	if list, ok := root.([]any); ok && len(list) > 0 {
		root = list[0]
	}
	o, ok := root.(map[string]any)
	return o, ok
}

// beginning is what there is of JSON that was cut off at its end: in objects and lists, at most deep of them in one another, what is whole.
func beginning(d *json.Decoder, end int64, deep int) (v any, whole bool) {
	t, err := d.Token()
	if err != nil || deep == 0 {
		return nil, false
	}
	switch t {
	case json.Delim('{'):
		o := make(map[string]any)
		for whole = true; whole && d.More(); {
			name, _ := d.Token()
			v, whole = beginning(d, end, deep-1)
			if key, ok := name.(string); ok && v != nil {
				o[key] = v
			}
		}
		v = o
	case json.Delim('['):
		list := []any{}
		for whole = true; whole && d.More(); {
			if v, whole = beginning(d, end, deep-1); v != nil {
				list = append(list, v)
			}
		}
		v = list
	default:
		if _, number := t.(json.Number); number && d.InputOffset() == end {
			return nil, false // of which more may have come
		}
		return t, true
	}
	if whole {
		_, err = d.Token()
	}
	return v, whole && err == nil
}

func child(o object, key string) object {
	c, _ := o[key].(map[string]any)
	return c
}

// maxFaults bounds what is looked at of a JSON error that is wrapped in others.
const maxFaults = 8

// faults adds to all a JSON error and where in it, and in what that wraps, it says what
// went wrong: under "error", or in the first of its "errors", or, as FastAPI has it, under
// "detail"; also where that, or a message, is a string with JSON in it. They need no memory
// of their own where all has room for them.
func faults(all []object, root object) []object {
	begin := len(all)
	all = append(all, root)
	for i := begin; i < len(all); i++ {
		for _, key := range [...]string{"error", "errors", "detail", "message"} {
			if len(all) == begin+maxFaults {
				break
			}
			if inner := within(all[i][key]); inner != nil {
				all = append(all, inner)
			}
		}
	}
	return all
}

// within is an object, or the first of a list, or what a string holds of either.
func within(v any) object {
	switch v := v.(type) {
	case map[string]any:
		return v
	case []any:
		if len(v) > 0 {
			o, _ := v[0].(map[string]any)
			return o
		}
	case string:
		v = strings.TrimSpace(v)
		if strings.HasPrefix(v, "{") || strings.HasPrefix(v, "[") { // and no prose, which costs nothing
			o, _ := parseBody([]byte(v))
			return o
		}
	}
	return nil
}

// relayed adds what the upstream's own upstream said, which OpenRouter passes on as a string.
func relayed(all []object) []object {
	for _, o := range all {
		if inner := within(child(o, "metadata")["raw"]); inner != nil {
			return faults(all, inner)
		}
	}
	return all
}

// text is a string, or a number as it was written.
func text(o object, key string) string { return written(o[key]) }

func written(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// body reads a JSON error, in all its wrappings.
func (c *collector) body(all []object) {
	for _, o := range all {
		for _, o := range [...]object{o, child(o, "details"), child(o, "metadata")} {
			for name, v := range o {
				c.named(name, written(v))
			}
		}
		c.google(o)
	}
	c.usageLimit(all)
}

// spelling is what the spellings of a name differ in: retry_after, retryAfter, Retry-After.
var spelling = strings.NewReplacer("_", "", "-", "")

// named reads what says by its name how long to wait, or what happened.
func (c *collector) named(name, value string) {
	switch strings.ToLower(spelling.Replace(name)) {
	case "retryafter", "resetafter", "retryafterseconds", "retryaftersec", "resetafterseconds":
		if wait, ok := parseRetryAfter(value, c.ref); ok {
			c.add(hintFirm, wait, name, value)
		}
	case "retryafterms", "resetafterms":
		if wait, ok := parseWait(value, time.Millisecond); ok {
			c.add(hintFirm, wait, name, value)
		}
	case "message", "msg", "error", "errormessage", "errormsg", "errordescription", "detail", "raw":
		c.prose(value)
	}
}

// usageLimit reads the body that a Codex limit often has instead of any field.
func (c *collector) usageLimit(all []object) {
	if !namesUsageLimit(all) {
		return
	}
	for _, o := range all {
		raw := text(o, "resets_in_seconds")
		if wait, ok := parseWait(raw, time.Second); ok && wait > 0 {
			c.add(hintFirm, wait, "resets_in_seconds", raw)
			continue
		}
		c.reset(hintFirm, "resets_at", text(o, "resets_at"))
	}
}

// namesUsageLimit says whether an error is that of a plan's window.
func namesUsageLimit(all []object) bool {
	return slices.ContainsFunc(all, func(o object) bool {
		return text(o, "type") == "usage_limit_reached" || text(o, "code") == "usage_limit_reached"
	})
}

// google reads google.rpc details: RetryInfo, ErrorInfo and QuotaFailure.
func (c *collector) google(e object) {
	details, _ := e["details"].([]any)
	for _, d := range details {
		detail, _ := d.(map[string]any)
		kind := text(detail, "@type")
		kind = kind[strings.LastIndexByte(kind, '.')+1:]
		switch kind {
		case "RetryInfo":
			for _, key := range [...]string{"retryDelay", "retry_delay"} { // the name in JSON, and the field's own
				if wait, ok := protoDuration(detail, key); ok {
					c.add(hintFirm, wait, key, text(detail, key))
				}
			}
		case "ErrorInfo":
			c.errorInfo(child(detail, "metadata"))
		case "QuotaFailure":
			violations, _ := detail["violations"].([]any)
			for _, v := range violations {
				violation, _ := v.(map[string]any)
				c.dailyQuota(text(violation, "quotaId"))
				c.dailyQuota(text(violation, "quota_id"))
			}
		}
	}
}

// errorInfo reads what goes with a reason: how long a quota is spent, or when it begins
// anew, or which one it is.
func (c *collector) errorInfo(metadata object) {
	raw := text(metadata, "quotaResetDelay")
	if wait, ok := parseWait(raw, time.Second); ok {
		c.add(hintFirm, wait, "quotaResetDelay", raw)
	} else {
		c.reset(hintFirm, "quotaResetTimeStamp", text(metadata, "quotaResetTimeStamp"))
	}
	c.dailyQuota(text(metadata, "quota_limit"))
}

// protoDuration reads a google.protobuf.Duration: "38s", or a number, or {seconds, nanos},
// from stacks that do not know its JSON form.
func protoDuration(detail object, key string) (time.Duration, bool) {
	o := child(detail, key)
	if o == nil {
		return parseWait(text(detail, key), time.Second)
	}
	seconds, hasSeconds := parseNumber(text(o, "seconds"))
	nanos, hasNanos := parseNumber(text(o, "nanos"))
	readable := (hasSeconds || o["seconds"] == nil) && (hasNanos || o["nanos"] == nil) // in JSON, what is zero is left out
	return times(seconds, time.Second) + times(min(nanos, 1e9), time.Nanosecond), readable && (hasSeconds || hasNanos)
}

// dailyQuota reads Gemini's quotas per day, which begin anew at midnight in Los Angeles.
func (c *collector) dailyQuota(id string) {
	if !strings.Contains(id, "PerDay") {
		return
	}
	if zone, err := time.LoadLocation("America/Los_Angeles"); err == nil { // the zones are compiled in
		c.add(hintFirm, c.until(0, 0, 0, zone), id, "until midnight in Los Angeles")
	}
}

// until is how long it is still until it is so late in a zone.
func (c *collector) until(hour, minute, second int, zone *time.Location) time.Duration {
	local := c.ref.In(zone)
	at := time.Date(local.Year(), local.Month(), local.Day(), hour, minute, second, 0, zone)
	if !at.After(c.ref) {
		at = time.Date(local.Year(), local.Month(), local.Day()+1, hour, minute, second, 0, zone)
	}
	return at.Sub(c.ref)
}

// echoedFields are those of an upstream's upstream that a body carries along.
func echoedFields(all []object) http.Header {
	h := make(http.Header)
	for _, o := range all {
		for name, v := range child(child(o, "metadata"), "headers") {
			lines, several := v.([]any)
			if !several {
				lines = []any{v}
			}
			for _, line := range lines {
				h[name] = append(h[name], written(line))
			}
		}
	}
	return h
}
