package pool

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// parseBody reads a JSON error: an object, or the first object of an array, as
// streaming endpoints wrap theirs. Anything else, HTML above all, is not looked at.
func parseBody(body []byte) (object, bool) {
	body = bytes.TrimPrefix(body[:min(len(body), MaxAnswerBody)], []byte("\ufeff")) // RFC 8259 section 8.1: may be ignored
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] != '{' && body[0] != '[' {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // a number keeps its digits: 1e400 must be seen for what it is
	var root any
	if d.Decode(&root) != nil {
		return nil, false
	}
	if list, ok := root.([]any); ok && len(list) > 0 {
		root = list[0]
	}
	o, ok := root.(map[string]any)
	return o, ok
}

func child(o object, key string) object {
	c, _ := o[key].(map[string]any)
	return c
}

// fault is where a JSON error says what went wrong: under "error", or in the first of its
// "errors".
func fault(root object) object {
	if e := child(root, "error"); e != nil {
		return e
	}
	list, _ := root["errors"].([]any)
	if len(list) == 0 {
		return nil
	}
	e, _ := list[0].(map[string]any)
	return e
}

// text is a string, or a number as it was written.
func text(o object, key string) string {
	switch v := o[key].(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// body reads a JSON error.
func (c *collector) body(root object) {
	e := fault(root)
	for _, o := range []object{root, e} {
		for _, name := range []string{"retry_after", "reset_after"} {
			if wait, ok := parseRetryAfter(text(o, name), c.ref); ok {
				c.add(hintFirm, wait, name, text(o, name))
			}
		}
	}
	c.usageLimit(root, e)
	c.google(e)
	for _, o := range []object{e, root} {
		for _, name := range []string{"message", "error", "detail", "error_description"} {
			c.prose(text(o, name))
		}
	}
}

// usageLimit reads the body that a Codex limit often has instead of any field.
func (c *collector) usageLimit(root, e object) {
	if text(root, "type") != "usage_limit_reached" && text(e, "type") != "usage_limit_reached" &&
		text(root, "code") != "usage_limit_reached" && text(e, "code") != "usage_limit_reached" {
		return
	}
	for _, o := range []object{e, root} {
		raw := text(o, "resets_in_seconds")
		if wait, ok := parseWait(raw, time.Second); ok && wait > 0 {
			c.add(hintFirm, wait, "resets_in_seconds", raw)
			continue
		}
		c.reset(hintFirm, "resets_at", text(o, "resets_at"))
	}
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
			if wait, ok := protoDuration(detail["retryDelay"]); ok {
				c.add(hintFirm, wait, "retryDelay", text(detail, "retryDelay"))
			}
		case "ErrorInfo":
			c.errorInfo(child(detail, "metadata"))
		case "QuotaFailure":
			violations, _ := detail["violations"].([]any)
			for _, v := range violations {
				violation, _ := v.(map[string]any)
				c.dailyQuota(text(violation, "quotaId"))
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

// protoDuration reads a google.protobuf.Duration: "38s", or {seconds, nanos} from
// stacks that do not know its JSON form.
func protoDuration(v any) (time.Duration, bool) {
	o, ok := v.(map[string]any)
	if !ok {
		s, _ := v.(string)
		return parseWait(s, time.Second)
	}
	seconds, hasSeconds := parseNumber(text(o, "seconds"))
	nanos, hasNanos := parseNumber(text(o, "nanos"))
	return times(seconds, time.Second) + times(min(nanos, 1e9), time.Nanosecond), hasSeconds || hasNanos
}

// dailyQuota reads Gemini's quotas per day, which begin anew at midnight in Los Angeles.
func (c *collector) dailyQuota(id string) {
	if !strings.Contains(id, "PerDay") {
		return
	}
	zone, err := time.LoadLocation("America/Los_Angeles")
	if err != nil {
		return // the zone is compiled in
	}
	local := c.ref.In(zone)
	midnight := time.Date(local.Year(), local.Month(), local.Day()+1, 0, 0, 0, 0, zone)
	c.add(hintFirm, midnight.Sub(c.ref), id, "until midnight in Los Angeles")
}

// echoedFields are those of an upstream's upstream that a body carries along.
func echoedFields(root object) http.Header {
	fields := child(child(fault(root), "metadata"), "headers")
	h := make(http.Header)
	for name := range fields {
		h.Add(name, text(fields, name))
	}
	return h
}

var (
	proseWait = regexp.MustCompile(`(?i)\b(?:try again|retry|resets?|wait|available|renews?|refresh(?:es)?)\b[^.\d]{0,40}?` +
		`((?:\d+(?:\.\d+)?\s*(?:` + proseUnits + `)[\s,]*(?:and\s+)?)+)(?:[^a-zA-Z]|$)`)
	proseTerm = regexp.MustCompile(`(?i)(\d+(?:\.\d+)?)\s*(` + proseUnits + `)`)
	proseTime = regexp.MustCompile(`(?i)\b(?:resets?|try again|retry|available|until)\b[^.\d]{0,40}?` +
		`(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?\s?(?:Z|UTC|[+-]\d\d:?\d\d(?:\s[A-Z]{3,4})?)?)`)
	prosePipe = regexp.MustCompile(`(?i)limit reached\|(\d{10,13})\b`)
)

const proseUnits = `months?|milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w`

// prose reads a message as the last resort.
func (c *collector) prose(message string) {
	if len(message) > 4096 {
		message = message[:4096]
	}
	if m := prosePipe.FindStringSubmatch(message); m != nil {
		c.reset(hintText, "message", m[1])
	}
	if m := proseTime.FindStringSubmatch(message); m != nil {
		if t, ok := parseDate(strings.Replace(m[1], " UTC", "Z", 1)); ok && t.After(c.ref) {
			c.add(hintText, t.Sub(c.ref), "message", m[1])
		}
	}
	if m := proseWait.FindStringSubmatch(message); m != nil {
		var sum time.Duration
		for _, term := range proseTerm.FindAllStringSubmatch(m[1], -1) {
			n, err := strconv.ParseFloat(term[1], 64)
			if err != nil {
				continue
			}
			sum = min(farWait, sum+times(n, proseUnit(term[2])))
		}
		if sum > 0 {
			c.add(hintText, sum, "message", m[1])
		}
	}
}

func proseUnit(name string) time.Duration {
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "mil") || strings.HasPrefix(name, "ms") {
		return time.Millisecond
	}
	if strings.HasPrefix(name, "mo") {
		return 30 * 24 * time.Hour
	}
	switch name[0] {
	case 's':
		return time.Second
	case 'm':
		return time.Minute
	case 'h':
		return time.Hour
	case 'd':
		return 24 * time.Hour
	default:
		return 7 * 24 * time.Hour
	}
}
