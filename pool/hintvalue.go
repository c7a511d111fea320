package pool

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// farWait saturates waits: far above every clamp, far below what overflows.
const farWait = 366 * 24 * time.Hour

// parseNumber reads ASCII digits with an optional fraction, and nothing else that
// strconv would: no sign, exponent, hex, underscore, NaN or Inf.
func parseNumber(s string) (float64, bool) {
	s = strings.Trim(s, " \t\r\n")
	whole, fraction, dotted := strings.Cut(s, ".")
	if !digits(whole) || dotted && !digits(fraction) {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil { // only a range error is left: more digits than a float has
		return math.MaxFloat64, true
	}
	return n, true
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// times is n units, saturated.
func times(n float64, unit time.Duration) time.Duration {
	if n >= float64(farWait)/float64(unit) {
		return farWait
	}
	return time.Duration(n * float64(unit))
}

// parseWait reads a relative time: a bare number of units, or a duration.
func parseWait(s string, unit time.Duration) (time.Duration, bool) {
	if n, ok := parseNumber(s); ok {
		return times(n, unit), true
	}
	return parseDuration(s)
}

// parseRetryAfter reads one value of Retry-After, or of what a body calls so. A number
// that would be decades is the epoch second, or a part of one, that somebody put there.
func parseRetryAfter(s string, ref time.Time) (time.Duration, bool) {
	if n, ok := parseNumber(s); ok && n >= 1e9 {
		if wait, _ := parseReset(s, ref); wait.Abs() <= farWait {
			return wait, wait > 0
		}
	}
	if t, ok := parseDate(s); ok {
		wait := t.Sub(ref)
		return wait, wait > 0
	}
	return parseWait(s, time.Second)
}

// parseReset reads when something resets, by the value's form and size: the name
// of a field does not tell an instant from a wait.
func parseReset(s string, ref time.Time) (time.Duration, bool) {
	if n, ok := parseNumber(s); ok {
		switch {
		case n < 1e9:
			return times(n, time.Second), true
		case n < 1e12:
			return epoch(n, time.Second).Sub(ref), true
		case n < 1e15:
			return epoch(n, time.Millisecond).Sub(ref), true
		default: // also of 19 digits: a unit that is guessed wrongly would end a cooldown early
			return epoch(n, time.Microsecond).Sub(ref), true
		}
	}
	if d, ok := parseDuration(s); ok {
		return d, true
	}
	if t, ok := parseDate(s); ok {
		return t.Sub(ref), true
	}
	return 0, false
}

// epoch is the instant n units after 1970, saturated to a year that Sub can measure.
func epoch(n float64, unit time.Duration) time.Time {
	const latest = 1 << 34 // seconds: the year 2514
	seconds := n * unit.Seconds()
	if seconds >= latest {
		return time.Unix(latest, 0)
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9))
}

type durationUnit struct {
	name string
	size time.Duration
}

// durationUnits in the order in which they are tried: ms before m.
var durationUnits = []durationUnit{
	{"ms", time.Millisecond},
	{"us", time.Microsecond},
	{"µs", time.Microsecond},
	{"ns", time.Nanosecond},
	{"d", 24 * time.Hour},
	{"h", time.Hour},
	{"m", time.Minute},
	{"s", time.Second},
}

// isoDays and isoClock are the units of an ISO 8601 duration, before its T and after it.
var (
	isoDays = []durationUnit{
		{"Y", 365 * 24 * time.Hour},
		{"M", 30 * 24 * time.Hour},
		{"W", 7 * 24 * time.Hour},
		{"D", 24 * time.Hour},
	}
	isoClock = []durationUnit{
		{"H", time.Hour},
		{"M", time.Minute},
		{"S", time.Second},
	}
)

// parseDuration reads numbers with units, such as 1d2h or 2m59.56s, or as ISO 8601 has
// them, such as PT2M59.56S.
func parseDuration(s string) (time.Duration, bool) {
	s = strings.Trim(s, " \t\r\n")
	if s == "" || s[0] != 'P' && s[0] != 'p' {
		return sumUnits(s, durationUnits)
	}
	days, clock, timed := strings.Cut(strings.ToUpper(s[1:]), "T")
	sum, ok := sumUnits(days, isoDays)
	if !timed {
		return sum, ok
	}
	rest, ended := sumUnits(clock, isoClock)
	return min(farWait, sum+rest), ended && (ok || days == "")
}

// sumUnits adds up numbers with units, of which there is at least one.
func sumUnits(s string, units []durationUnit) (time.Duration, bool) {
	var sum time.Duration
	for rest := s; rest != ""; {
		end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if end <= 0 {
			return 0, false
		}
		n, ok := parseNumber(rest[:end])
		if !ok {
			return 0, false
		}
		rest = rest[end:]
		found := false
		for _, u := range units {
			if after, ok := strings.CutPrefix(rest, u.name); ok {
				sum = min(farWait, sum+times(n, u.size))
				rest, found = after, true
				break
			}
		}
		if !found {
			return 0, false
		}
	}
	return sum, s != ""
}

// dateLayouts are the absolute forms seen besides those of HTTP. A zone's abbreviation
// alone would be taken for UTC, or for what the host's own zone means by it.
var dateLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04Z07:00",
	"2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z0700", "2006-01-02 15:04:05 -07:00",
	"2006-01-02 15:04:05 -0700 MST", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05 GMT",
	"Mon, 2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 2006 15:04:05 GMT", // RFC 5322, as Python's email.utils writes it
	"2 Jan 2006 15:04:05 -0700", "2 Jan 2006 15:04:05 GMT", // the same, of which the day's name is optional, or one of two on a line
	"2-Jan-06 15:04:05 GMT",            // and RFC 850's
	"Mon Jan 2 2006 15:04:05 GMT-0700", // a JavaScript Date
}

// parseDate reads an HTTP-date in any of its three forms, or an ISO one.
func parseDate(s string) (time.Time, bool) {
	s, _, _ = strings.Cut(strings.Trim(s, " \t\r\n"), " (") // a zone's name, behind its offset
	if len(s) < len("2006-01-02T15:04Z") || len(s) > 64 {
		return time.Time{}, false
	}
	if utc, ok := strings.CutSuffix(s, " UTC"); ok {
		s = utc + " GMT" // Go's RFC 1123 says UTC
	}
	s, leap := withoutLeapSecond(s)
	if t, err := http.ParseTime(s); err == nil {
		zone, _ := t.Zone() // RFC 850's form is read with any, RFC 9110 section 5.6.7 has GMT alone
		return t.Add(leap), zone == "GMT" || zone == "UTC"
	}
	s = strings.ToUpper(s) // RFC 3339 section 5.6: t and z as well
	for _, layout := range dateLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.Add(leap), true
		}
	}
	return time.Time{}, false
}

// withoutLeapSecond makes of a second 60, which RFC 9110 and RFC 3339 have and time.Parse has not, the one before it, and says what is to be
// added again.
func withoutLeapSecond(s string) (string, time.Duration) {
	const second = ":60"
	at := strings.Index(s, second)
	if at < len(":59") || s[at-len(":59")] != ':' {
		return s, 0
	}
	return s[:at] + ":59" + s[at+len(second):], time.Second
}
