package pool

import (
	"encoding/json"
	"math"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

type hintCase struct {
	Name    string
	Status  int
	Headers map[string][]string
	Body    string
	Now     time.Time
	Want    *float64 `json:"want_seconds"`
	Why     string
}

func hintCases(t testing.TB) []hintCase {
	t.Helper()
	data, err := os.ReadFile("testdata/hints.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []hintCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestHints(t *testing.T) {
	for _, c := range hintCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			h := ParseHint(c.Status, c.Headers, []byte(c.Body), c.Now)
			switch {
			case c.Want == nil && h.Known():
				t.Fatalf("got %s (%s), want no hint: %s", h.Wait, h, c.Why)
			case c.Want != nil && !h.Known():
				t.Fatalf("got no hint, want %v s: %s", *c.Want, c.Why)
			case c.Want != nil:
				if got := clampCooldown(h.Wait).Seconds(); math.Abs(got-*c.Want) > 0.001 {
					t.Fatalf("got %v s (%s), want %v s: %s", got, h, *c.Want, c.Why)
				}
			}
		})
	}
}

// TestHintIsOneShortLine whatever an upstream calls its quotas: it is stored, logged and shown.
func TestHintIsOneShortLine(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)
	for name, body := range map[string]string{
		"quota's name": `{"error":{"details":[{"@type":"QuotaFailure","violations":[{"quotaId":"a\n\u001b[2JPerDay` + strings.Repeat("ä", 9000) + `"}]}]}}`,
		"prose":        `{"error":{"message":"try again in 1 h\n\n5 m"}}`,
	} {
		h := ParseHint(429, nil, []byte(body), now)
		line := h.String()
		odd := strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) })
		if !h.Known() || odd || len(line) > 200 || !utf8.ValidString(line) {
			t.Errorf("%s: %d bytes, %.100q", name, len(line), line)
		}
	}
}

// TestHintInALongBody: of a body, 64 KiB are looked at, of which what is whole counts.
func TestHintInALongBody(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)
	long := strings.Repeat("x", MaxAnswerBody)
	upTo := func(at int, begin, end string) string { // with end at an offset
		return begin + long[:at-len(begin)] + end
	}
	for name, c := range map[string]struct {
		body string
		want time.Duration
	}{
		"a wait before what is long":  {`{"error":{"retry_after":65,"trace":"` + long + `"}}`, 65 * time.Second},
		"one in a list":               {`[{"error":{"details":[{"@type":"RetryInfo","retryDelay":"66s"},{"trace":"` + long + `"}]}}]`, 66 * time.Second},
		"one in an event":             {`data: {"error":{"retry_after":67,"trace":["` + long + `"]}}`, 67 * time.Second},
		"one behind what is long":     {`{"trace":"` + long + `","retry_after":68}`, 0},
		"a message before it":         {`{"error":{"message":"try again in 69 s"},"trace":"` + long, 69 * time.Second},
		"a number that is cut off":    {upTo(MaxAnswerBody-17, `{"a":"`, `","retry_after":7000}`), 0},
		"a number at the end":         {upTo(MaxAnswerBody-19, `{"a":"`, `","retry_after":70,"b":1}`), 70 * time.Second},
		"nothing but lists":           {strings.Repeat("[", MaxAnswerBody+1), 0},
		"no JSON":                     {`{"retry_after":71,` + long, 71 * time.Second},
		"a page":                      {"<p>try again in 72 s</p>" + long, 0},
		"what is short and no JSON":   {`{"retry_after":73,`, 0},
		"what is short and cut off":   {`{"retry_after":74,"trace":"` + long[:100], 0},
		"all of it, which just fits":  {upTo(MaxAnswerBody-19, `{"a":"`, `","retry_after":75}`), 75 * time.Second},
		"what is behind it, no JSON":  {`{"retry_after":76}` + long, 76 * time.Second},
		"a list of which none is cut": {`[{"retry_after":77},"` + long + `"]`, 77 * time.Second},
	} {
		if h := ParseHint(429, nil, []byte(c.body), now); h.Wait != c.want {
			t.Errorf("%s: %s (%s), want %s", name, h.Wait, h, c.want)
		}
	}
	v := Classify(Answer{Status: 429, Body: []byte(`{"error":{"code":"insufficient_quota","trace":"` + long)}, now)
	if v.Outcome != OutcomeBilling {
		t.Errorf("no credit: %s", v.Outcome)
	}
}

func FuzzHint(f *testing.F) {
	for _, c := range hintCases(f) {
		for name, lines := range c.Headers {
			f.Add(c.Status, name, lines[0], name, lines[0], c.Body)
		}
	}
	for _, body := range []string{
		`{"error":{"metadata":{"raw":"{\"error\":{\"retry_after\":5}}"}}}`, `{"detail":[{"error":"[{\"message\":\"{}\"}]"}]}`,
		"event: error\ndata: {\"errors\":[{\"error\":{}}]}\n\n", strings.Repeat(`{"error":`, 99),
	} {
		f.Add(429, "Retry-After-Ms", "1", "X-Codex-Primary-Used-Percent", "100", body)
	}
	now := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, status int, n1, v1, n2, v2, body string) {
		h := make(http.Header)
		h.Add(n1, v1)
		h.Add(n2, v2)
		v := Classify(Answer{Status: status, Header: h, Body: []byte(body)}, now)
		if v.Hint.Wait < 0 {
			t.Fatalf("negative wait %s from %s", v.Hint.Wait, v.Hint)
		}
		c := Cooldown{}.extend(v, false, now, time.Minute)
		if v.Outcome.Refused() && (c.Until.Sub(now) < MinCooldown || c.Until.Sub(now) > MaxCooldown) {
			t.Fatalf("cooldown %s is outside the clamp", c.Until.Sub(now))
		}
		_ = v.reason()
	})
}
