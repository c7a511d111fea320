package pool

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a Gemini day ends at midnight in Los Angeles, also on a host without zone files
	"unicode"
)

// hintClass orders sources of hints by what they are worth.
type hintClass uint8

const (
	hintNone      hintClass = iota
	hintText                // prose in a JSON error
	hintAmbiguous           // a reset with no remaining anywhere
	hintSoft                // when a spent bucket is full again
	hintFirm                // an explicit wait, or the end of a fixed window that is spent
)

// Hint is what a response says about when its member is back.
type Hint struct {
	Wait   time.Duration // from the answer on; as stated, before any clamp; above zero or, if explicitly so, zero
	Window string        // which field or window said so, printable, at most 64 bytes
	Raw    string        // its value, likewise
	class  hintClass
}

// Known says whether there is a hint at all.
func (h Hint) Known() bool { return h.class != hintNone }

func (h Hint) String() string {
	s := strings.TrimSpace(h.Window + " " + h.Raw)
	switch clamped := clampCooldown(h.Wait); {
	case h.Wait > MaxCooldown:
		s += fmt.Sprintf(", %s stated, capped at %s", roughly(h.Wait), roughly(clamped))
	case h.Wait < MinCooldown:
		s += fmt.Sprintf(", raised to %s", roughly(clamped))
	}
	return s
}

// roughly is a duration in its largest sensible unit: 5.9 d, 6 h, 41 m, 10 s.
func roughly(d time.Duration) string {
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= u.size {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(d)/float64(u.size)), ".0") + " " + u.name
		}
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
}

// ParseHint reads a refusal's hint. It is pure and never panics, whatever the input.
// Absolute times are measured from the response's own Date if that is within 24 h
// of now, so that skewed clocks cancel out.
//
// Explicit waits (RFC 9110 section 10.2.3 and its vendor forms) and spent fixed
// windows all have to pass: the latest of them counts. Without any, the latest
// spent bucket; then the latest reset that no remaining contradicts; then prose.
func ParseHint(status int, h http.Header, body []byte, now time.Time) Hint {
	if status < 400 || status >= 500 {
		return Hint{}
	}
	return parseHint(h, body, reference(h, now))
}

// parseHint measures absolute times from ref.
func parseHint(h http.Header, body []byte, ref time.Time) Hint {
	c := collector{ref: ref}
	root, _ := parseBody(body)
	var room [2 * maxFaults]object
	all := relayed(faults(room[:0], root))
	echoed := echoedFields(all)
	c.remains = anyRemaining(h) || anyRemaining(echoed)
	c.fields(h)
	c.fields(echoed)
	c.body(all)
	return c.best
}

// TellsOfLimits says whether a hint may be read from a field of this name.
func TellsOfLimits(name []byte) bool {
	var room [64]byte
	lower := append(room[:0], name[:min(len(name), len(room))]...)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	if string(lower) == "date" || bytes.HasPrefix(lower, []byte("x-codex-")) {
		return true
	}
	for _, word := range [...]string{"ratelimit", "rate-limit", "retry-after"} {
		if bytes.Contains(lower, []byte(word)) {
			return true
		}
	}
	return false
}

// reference is the instant from which absolute times are measured.
func reference(h http.Header, now time.Time) time.Time {
	for _, line := range fieldLines(h, "date") {
		if t, ok := parseDate(line); ok && t.Sub(now).Abs() <= 24*time.Hour {
			return t
		}
	}
	return now
}

// collector keeps the best hint seen: the highest class, and in it the longest wait.
type collector struct {
	ref     time.Time
	remains bool // some window says what is left of it, so a bare reset is not to be trusted
	best    Hint
}

func (c *collector) add(class hintClass, wait time.Duration, window, raw string) {
	if class < c.best.class || class == c.best.class && wait < c.best.Wait {
		return
	}
	h := Hint{Wait: wait, Window: quoted(window), Raw: quoted(raw), class: class}
	if same := c.best; class == same.class && wait == same.Wait && cmp.Or(strings.Compare(same.Window, h.Window), strings.Compare(same.Raw, h.Raw)) <= 0 {
		return // of two that say the same, always the same one
	}
	c.best = h
}

// quoted is the beginning of what an upstream wrote, as it may stand in a line.
func quoted(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 64)], ""))
	return strings.TrimSpace(s)
}

// reset adds a value that is a time or a wait by its own form; what has passed says nothing.
func (c *collector) reset(class hintClass, window, raw string) bool {
	wait, ok := parseReset(raw, c.ref)
	if !ok || wait <= 0 {
		return false
	}
	c.add(class, wait, window, raw)
	return true
}

// fields reads the header section.
func (c *collector) fields(h http.Header) {
	c.explicit(h)
	c.anthropic(h)
	c.codex(h)
	for _, w := range quotaWindows(h) {
		for i, reset := range w.resets {
			switch {
			case w.over(i):
				c.reset(hintSoft, w.resetName, reset)
			case !c.remains:
				c.reset(hintAmbiguous, w.resetName, reset)
			}
		}
	}
}

// explicit reads the fields that say how long to wait.
func (c *collector) explicit(h http.Header) {
	for _, v := range values(fieldLines(h, "retry-after")) {
		if wait, ok := parseRetryAfter(v, c.ref); ok {
			c.add(hintFirm, wait, "retry-after", v)
		}
	}
	for _, name := range [...]string{"retry-after-ms", "x-ms-retry-after-ms"} {
		for _, v := range values(fieldLines(h, name)) {
			if wait, ok := parseWait(v, time.Millisecond); ok {
				c.add(hintFirm, wait, name, v)
			}
		}
	}
	for name, lines := range h {
		if !isLimitsRetryAfter(name) {
			continue
		}
		for _, v := range values(lines) {
			if wait, ok := parseRetryAfter(v, c.ref); ok {
				c.add(hintFirm, wait, strings.ToLower(name), v)
			}
		}
	}
	if !somethingLeft(h) {
		for _, v := range values(fieldLines(h, "x-ratelimit-reset-after")) {
			if wait, ok := parseRetryAfter(v, c.ref); ok {
				c.add(hintFirm, wait, "x-ratelimit-reset-after", v)
			}
		}
	}
}

// isLimitsRetryAfter says of a field's name whether it is a limit's own Retry-After, in
// seconds or as Symfony's, an instant: x-ratelimit-retry-after, with what is spent before
// it (Copilot's x-ratelimit-user-retry-after) or -seconds behind it (Bucket4j).
func isLimitsRetryAfter(name string) bool {
	const after, seconds = "-retry-after", "-retry-after-seconds"
	for _, begin := range [...]string{"x-ratelimit", "x-rate-limit"} {
		if n := len(begin); len(name) >= n+len(after) && strings.EqualFold(name[:n], begin) {
			return strings.EqualFold(name[len(name)-len(after):], after) ||
				len(name) >= n+len(seconds) && strings.EqualFold(name[len(name)-len(seconds):], seconds)
		}
	}
	return false
}

// anthropic reads the unified windows of subscription accounts. What may be bought beyond
// them ("overage") is no window that has to pass: with its month spent as well, an account
// is back when its five hours are over.
func (c *collector) anthropic(h http.Header) {
	for _, window := range rejectedWindows(h) {
		for _, reset := range values(fieldLines(h, window+"reset")) {
			c.reset(hintFirm, window+"reset", reset)
		}
	}
}

// rejectedWindows are the beginnings of the names of the fields of those unified windows,
// and of their aggregate, that say that they are spent.
func rejectedWindows(h http.Header) (all []string) {
	const prefix, status = "anthropic-ratelimit-unified-", "status"
	for name, lines := range h {
		name = strings.ToLower(name)
		window, ok := strings.CutPrefix(name, prefix)
		if !ok || !strings.HasSuffix(window, status) || !rejected(lines) {
			continue
		}
		window = strings.TrimSuffix(window, status) // "5h-", or "" for the aggregate
		if window != "" && !strings.HasSuffix(window, "-") || strings.HasPrefix(window, "overage-") {
			continue
		}
		all = append(all, prefix+window)
	}
	return all
}

func rejected(lines []string) bool {
	for _, v := range values(lines) {
		if strings.EqualFold(strings.TrimSpace(v), "rejected") {
			return true
		}
	}
	return false
}

// codex reads x-codex-primary-*, x-codex-secondary-* and the same with a limit's id in between.
func (c *collector) codex(h http.Header) {
	for _, window := range spentWindows(h) {
		found := false
		for _, v := range values(fieldLines(h, window+"-reset-after-seconds")) {
			if wait, ok := parseWait(v, time.Second); ok && wait > 0 {
				c.add(hintFirm, wait, window+" 100 %,", strings.TrimSpace(v)+" s")
				found = true
			}
		}
		for _, v := range values(fieldLines(h, window+"-reset-at")) {
			if !found {
				c.reset(hintFirm, window+" 100 %, reset-at", v)
			}
		}
	}
}

// spentWindows are the beginnings of the names of the fields of Codex's windows that are used up.
func spentWindows(h http.Header) (all []string) {
	for name, lines := range h {
		name = strings.ToLower(name)
		window, ok := strings.CutSuffix(name, "-used-percent")
		if !ok || !strings.HasPrefix(window, "x-codex-") ||
			!strings.HasSuffix(window, "-primary") && !strings.HasSuffix(window, "-secondary") {
			continue
		}
		spent := false
		for _, v := range values(lines) {
			used, ok := parseNumber(v)
			spent = spent || ok && used >= 100
		}
		if spent {
			all = append(all, window)
		}
	}
	return all
}

// fieldLines finds a field whatever the case of its name: h may not be canonical.
func fieldLines(h http.Header, lower string) []string {
	var all []string
	for name, lines := range h {
		if strings.EqualFold(name, lower) {
			all = append(all, lines...)
		}
	}
	return all
}

// values are what lines say. Lines that somebody on the way has joined by commas are taken
// apart again, and a date, which has one of its own, is not.
func values(lines []string) []string {
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, ",") }) {
		return lines
	}
	var all []string
	for _, line := range lines {
		if _, ok := parseDate(line); ok {
			all = append(all, line)
		} else {
			all = append(all, strings.Split(line, ",")...)
		}
	}
	return all
}
