package pool

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestHintsInOtherForms: how long a member is out does not depend on how that is written, nor on what is written
// around it. Every case of testdata is told again in each of the forms that mean the same.
func TestHintsInOtherForms(t *testing.T) {
	t.Parallel()
	judge := func(c hintCase) (Outcome, float64) {
		v := Classify(Answer{Status: c.Status, Header: c.Headers, Body: []byte(c.Body)}, c.Now)
		if !v.Hint.Known() {
			return v.Outcome, -1
		}
		return v.Outcome, clampCooldown(v.Hint.Wait).Seconds()
	}
	for _, c := range hintCases(t) {
		outcome, wait := judge(c)
		for form, other := range formsOf(c) {
			if o, w := judge(other); o != outcome || math.Abs(w-wait) > 1 {
				t.Errorf("%s, %s: %s, %v s, and as it was %s, %v s\n%q %s", c.Name, form, o, w, outcome, wait, other.Headers, other.Body)
			}
		}
	}
}

// TestTwoHintsTogether: an answer that says what two cases say follows the one that is worth more, and of equals the longer.
func TestTwoHintsTogether(t *testing.T) {
	t.Parallel()
	cases := hintCases(t)
	for _, a := range cases {
		for _, b := range cases {
			both := make(map[string][]string) // whatever the case of a name
			for _, c := range []hintCase{a, b} {
				for name, lines := range c.Headers {
					both[strings.ToLower(name)] = append(both[strings.ToLower(name)], lines...)
				}
			}
			shared := len(both) < len(a.Headers)+len(b.Headers) || both["date"] != nil
			if shared || a.Body != "" && b.Body != "" || !a.Now.Equal(b.Now) || a.Status >= 500 || b.Status >= 500 {
				continue // of one window two things are said, or from two clocks
			}
			want, other := ParseHint(429, a.Headers, []byte(a.Body), a.Now), ParseHint(429, b.Headers, []byte(b.Body), b.Now)
			if other.class > want.class || other.class == want.class && other.Wait > want.Wait {
				want = other
			}
			if got := ParseHint(429, both, []byte(a.Body+b.Body), a.Now); got.class != want.class || (got.Wait-want.Wait).Abs() > time.Millisecond {
				t.Errorf("%s and %s: %s (%s), want %s (%s)", a.Name, b.Name, got.Wait, got, want.Wait, want)
			}
		}
	}
}

// formsOf tells a case again in other forms, by what is different of each.
func formsOf(c hintCase) map[string]hintCase {
	forms := make(map[string]hintCase)
	fields := func(form string, f func(h http.Header)) {
		other := c
		other.Headers = http.Header(c.Headers).Clone()
		if other.Headers == nil {
			other.Headers = make(http.Header)
		}
		f(other.Headers)
		forms[form] = other
	}
	each := func(form string, f func(name string, lines []string) (string, []string)) {
		fields(form, func(h http.Header) {
			for name, lines := range maps.Clone(h) {
				delete(h, name)
				name, lines = f(name, lines)
				h[name] = lines
			}
		})
	}
	each("names in small letters", func(name string, lines []string) (string, []string) { return strings.ToLower(name), lines })
	each("names in capitals", func(name string, lines []string) (string, []string) { return strings.ToUpper(name), lines })
	each("white space", func(name string, lines []string) (string, []string) {
		return name, []string{" \t" + strings.Join(lines, " , ") + " \t"}
	})
	each("lines that come twice", func(name string, lines []string) (string, []string) { return name, append(lines, lines...) })
	for _, junk := range []string{"-5", "+5", "1e9", "0x10", "1_000", "NaN", "Inf", "soon", "30 seconds", "١٢٠", "2020-01-01T00:00:00Z", "Fri, 31 Dec 1999 23:59:59 GMT"} {
		if c.Status == http.StatusTooManyRequests { // of a 403, that there is one says what it is about
			fields("beside a wait of "+junk, func(h http.Header) { h["RETRY-AFTER"] = []string{junk} })
		}
	}
	fields("beside windows with something left", func(h http.Header) {
		h["X-Ratelimit-Remaining-Other"], h["X-Ratelimit-Reset-Other"] = []string{"9"}, []string{"9000s"}
		h["X-Codex-Other-Primary-Used-Percent"], h["X-Codex-Other-Primary-Reset-After-Seconds"] = []string{"99.9"}, []string{"9000"}
		h["Anthropic-Ratelimit-Unified-30d-Status"], h["Anthropic-Ratelimit-Unified-30d-Reset"] = []string{"allowed_warning"}, []string{"1795464000"}
	})
	inOtherUnits(c, fields)
	if http.Header(c.Headers).Get("Date") == "" && c.Headers["date"] == nil {
		for _, skew := range []time.Duration{-23 * time.Hour, 23 * time.Hour} {
			fields(fmt.Sprintf("a clock that is %s off", skew), func(h http.Header) { h["Date"] = []string{c.Now.Format(http.TimeFormat)} })
			other := forms[fmt.Sprintf("a clock that is %s off", skew)]
			other.Now = c.Now.Add(skew)
			forms[fmt.Sprintf("a clock that is %s off", skew)] = other
		}
		fields("a clock that is not to be believed", func(h http.Header) { h["Date"] = []string{c.Now.Add(25 * time.Hour).Format(http.TimeFormat)} })
	}
	for form, body := range bodyForms(c.Body) {
		other := c
		other.Body = body
		forms[form] = other
	}
	return forms
}

// inOtherUnits tells each time and wait of a case's fields as an instant or a duration.
func inOtherUnits(c hintCase, fields func(form string, f func(h http.Header))) {
	ref := reference(c.Headers, c.Now)
	for name, lines := range c.Headers {
		lower := strings.ToLower(name)
		if !strings.HasSuffix(lower, "retry-after") && !strings.HasSuffix(lower, "-reset") && !strings.Contains(lower, "-reset-") || strings.HasPrefix(lower, "x-codex") {
			continue
		}
		wait, ok := parseReset(lines[0], ref)
		if !ok || len(lines) > 1 || wait <= 0 || wait > farWait {
			continue
		}
		at := ref.Add(wait)
		for _, value := range []string{
			wait.String(), fmt.Sprintf("%dms", wait.Milliseconds()), fmt.Sprintf("PT%gS", wait.Seconds()), fmt.Sprintf("%.3f", wait.Seconds()),
			strconv.FormatInt(at.Unix(), 10), strconv.FormatInt(at.UnixMilli(), 10), strconv.FormatInt(at.UnixMicro(), 10),
			at.UTC().Format(http.TimeFormat), at.UTC().Format("Monday, 02-Jan-06 15:04:05 GMT"), at.UTC().Format(time.ANSIC),
			at.UTC().Format(time.RFC3339Nano), at.In(time.FixedZone("", 19800)).Format(time.RFC3339), at.In(time.FixedZone("", -25200)).Format("2006-01-02T15:04:05.000Z07:00"),
		} {
			fields(name+": "+value, func(h http.Header) { h[name] = []string{value} })
		}
	}
}

// bodyForms tells a JSON error again.
func bodyForms(body string) map[string]string {
	d := json.NewDecoder(strings.NewReader(body))
	d.UseNumber()
	var root any
	if d.Decode(&root) != nil {
		return nil
	}
	forms := map[string]string{
		"in lines":                 indented(root),
		"behind a byte order mark": "\ufeff\r\n" + body,
		"before other things":      body + "\r\n]}",
		"in an event":              ": comment\r\n\r\nevent: error\r\nretry: 9000\r\ndata: " + rewritten(root, nil) + "\r\n\r\n",
		"in an error":              `{"error":` + body + `}`,
		"in a detail":              `{"detail":` + body + `}`,
		"in a message":             rewritten(object{"error": object{"message": body}}, nil),
		"relayed":                  rewritten(object{"error": object{"message": "Provider returned error", "code": 429, "metadata": object{"raw": body}}}, nil),
	}
	if _, ok := root.(map[string]any); ok {
		forms["in a list"] = "[" + body + `,{"error":{"retry_after":9000}}]`
		forms["in a list of errors"] = `{"errors":[` + body + `]}`
	}
	for form, f := range map[string]func(key string, v any) any{
		"numbers as strings": func(key string, v any) any {
			if n, ok := v.(json.Number); ok {
				return n.String()
			}
			return v
		},
		"beside other numbers": func(key string, v any) any {
			if o, ok := v.(map[string]any); ok {
				maps.Copy(o, object{"request_id": "20261123173000", "model": "gpt-5.2-2026-11-20", "limit": 30000, "used": "28578", "timestamp": 1795464000, "window": "5h"})
			}
			return v
		},
		"a message among others": message(func(s string) string {
			return "2026-11-23T17:29:59Z [gpt-5.2-2026-11-20, org-4f5e9d, 3h] Error 429: " + s + " (request 20261123-5m, see https://a.example/30-days?m=5)"
		}),
		"a message in lines":             message(func(s string) string { return strings.ReplaceAll(s, " ", "\n") }),
		"a message that is not to break": message(func(s string) string { return strings.ReplaceAll(s, " ", "\u00a0") }),
		"a message in capitals":          message(strings.ToUpper),
		"a message with marks":           message(func(s string) string { return "⚠️ **" + s + "** <br/>— `限制`" }),
	} {
		forms[form] = rewritten(root, f)
	}
	return forms
}

func message(f func(string) string) func(string, any) any {
	return func(key string, v any) any {
		if s, ok := v.(string); ok && key == "message" {
			return f(s)
		}
		return v
	}
}

// rewritten is JSON once more, with all values changed.
func rewritten(root any, f func(key string, v any) any) string {
	var change func(key string, v any) any
	change = func(key string, v any) any {
		switch old := v.(type) {
		case map[string]any:
			o := make(map[string]any)
			for k, e := range old {
				o[k] = change(k, e)
			}
			v = o
		case []any:
			list := make([]any, len(old))
			for i, e := range old {
				list[i] = change(key, e)
			}
			v = list
		}
		if f != nil {
			v = f(key, v)
		}
		return v
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(change("", root)); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

func indented(root any) string {
	b, err := json.MarshalIndent(root, "", "\t")
	if err != nil {
		panic(err)
	}
	return string(b)
}
