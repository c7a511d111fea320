package pool

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// quotaWindow is one remaining/reset pair of any vendor's ratelimit fields.
type quotaWindow struct {
	key           string // the field names without the words remaining and reset
	remaining     []float64
	resets        []string
	remainingName string // the last of several
	resetName     string
}

// spent says whether nothing is left.
func (w quotaWindow) spent() bool { return slices.Contains(w.remaining, 0) }

// over says whether nothing is left until the i-th of the resets: fields that came several times,
// as from behind a gateway that has limits of its own, are pairs in their order.
func (w quotaWindow) over(i int) bool {
	if len(w.remaining) == len(w.resets) {
		return w.remaining[i] == 0
	}
	return w.spent()
}

// quotaWindows pairs the fields whose names have ratelimit or rate-limit in them
// by what is left of the name without remaining and reset, and adds those of the
// IETF's RateLimit field. The unified windows have rules of their own.
func quotaWindows(h http.Header) []quotaWindow {
	var w windows
	for name, lines := range h {
		w.add(name, lines)
	}
	if !w.folded {
		return w.all
	}
	// What comes several times is a pair in its order, of which a map has none.
	w = windows{}
	for _, name := range slices.SortedFunc(maps.Keys(h), inPairs) {
		w.add(name, h[name])
	}
	return w.all
}

// inPairs is an order of fields' names that is the same for remaining and for reset, whatever stands before and behind these words.
func inPairs(a, b string) int {
	return cmp.Or(strings.Compare(pairWords.Replace(strings.ToLower(a)), pairWords.Replace(strings.ToLower(b))), strings.Compare(a, b))
}

var pairWords = strings.NewReplacer("remaining", "*", "reset", "*")

// windows are those of a header section.
type windows struct {
	all    []quotaWindow
	folded bool // two names say the same of one window: remaining-tokens and tokens-remaining, or one that is written in two ways
}

func (ws *windows) add(name string, lines []string) {
	lower := strings.ToLower(name)
	if lower == "ratelimit" || lower == "x-ratelimit" {
		ws.all = append(ws.all, rateLimitField(strings.Join(lines, ", "))...)
		return
	}
	key, word := windowName(lower)
	switch word {
	case "remaining":
		for _, v := range values(lines) {
			if n, ok := parseNumber(v); ok {
				w := ws.window(key)
				ws.folded = ws.folded || w.remainingName != "" && w.remainingName != name
				w.remaining, w.remainingName = append(w.remaining, n), name
			}
		}
	case "reset":
		w := ws.window(key)
		ws.folded = ws.folded || w.resetName != ""
		w.resets, w.resetName = append(w.resets, values(lines)...), lower
	}
}

// window is the one with a key; a new one if there is none.
func (ws *windows) window(key string) *quotaWindow {
	i := slices.IndexFunc(ws.all, func(w quotaWindow) bool { return w.key == key })
	if i < 0 {
		ws.all = append(ws.all, quotaWindow{key: key})
		i = len(ws.all) - 1
	}
	return &ws.all[i]
}

// anyRemaining says whether any window tells what is left of it.
func anyRemaining(h http.Header) bool {
	return slices.ContainsFunc(quotaWindows(h), func(w quotaWindow) bool { return len(w.remaining) > 0 })
}

// somethingLeft says whether the window that x-ratelimit-reset-after belongs to is not spent.
func somethingLeft(h http.Header) bool {
	for _, v := range values(fieldLines(h, "x-ratelimit-remaining")) {
		if n, ok := parseNumber(v); ok && n > 0 {
			return true
		}
	}
	return false
}

// windowName splits a field name into the window it belongs to and what it says
// of it: "remaining", "reset", or "" for any other field.
func windowName(name string) (key, word string) {
	prefix, rest, ok := strings.Cut(name, "ratelimit")
	if !ok {
		if prefix, rest, ok = strings.Cut(name, "rate-limit"); !ok {
			return "", ""
		}
		prefix += "rate-" // of another's, where both are there
	}
	if strings.HasPrefix(rest, "-unified-") || strings.HasSuffix(rest, "reset-after") {
		return "", ""
	}
	words := strings.Split(rest, "-")
	for i, w := range words {
		if w == "remaining" || w == "reset" {
			return prefix + "|" + strings.Join(slices.Delete(words, i, i+1), "-"), w
		}
	}
	return "", ""
}

// rateLimitField reads the IETF's RateLimit in the forms of its drafts: a list of
// policies ("daily";r=0;t=7200), or one dictionary (limit=100, remaining=0, reset=70).
func rateLimitField(value string) []quotaWindow {
	var all []quotaWindow
	dict := quotaWindow{key: "ratelimit", resetName: "ratelimit"}
	for _, item := range splitOutsideQuotes(value, ',') {
		policy := quotaWindow{resetName: "ratelimit"}
		for _, param := range splitOutsideQuotes(item, ';') {
			name, v, ok := strings.Cut(strings.Trim(param, " \t"), "=")
			if !ok {
				continue
			}
			n, numeric := parseNumber(v)
			switch strings.ToLower(name) {
			case "r":
				if numeric {
					policy.remaining = []float64{n} // of several the last one (RFC 9651 section 3.1.2)
				}
			case "t":
				policy.resets = []string{v}
			case "remaining":
				if numeric {
					dict.remaining = append(dict.remaining, n)
				}
			case "reset":
				dict.resets = append(dict.resets, v)
			}
		}
		if policy.remaining != nil || policy.resets != nil {
			all = append(all, policy)
		}
	}
	if dict.remaining != nil || dict.resets != nil {
		all = append(all, dict)
	}
	return all
}

// splitOutsideQuotes splits at a separator that is not inside a quoted string.
func splitOutsideQuotes(s string, sep byte) []string {
	var parts []string
	quoted, begin := false, 0
	for i := range len(s) {
		switch {
		case s[i] == '"' && (i == 0 || s[i-1] != '\\'):
			quoted = !quoted
		case s[i] == sep && !quoted:
			parts = append(parts, s[begin:i])
			begin = i + 1
		}
	}
	return append(parts, s[begin:])
}
