package pool

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// proseUnits are longest first, as they are tried.
const proseUnits = `months?|milliseconds?|msecs?|ms|microseconds?|[uµ]s|nanoseconds?|ns|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w`

// proseZone is UTC, or an offset, or one from UTC, in brackets or not.
const proseZone = `\s?\(?(?:(Z|UTC|GMT)\b\s?)?([+-]\d{1,2}(?::?\d\d)?\b)?`

var (
	proseWait = regexp.MustCompile(`(?i)\b(?:try again|retry(?:ing|_?(?:after|delay|in))?|reset(?:s|ting)?|replenish(?:ed|es)|wait|back ?off|cool(?:ing)?[- ]?down|renews?|refresh(?:es)?|` +
		`(?:available|restored|lifted|unlock(?:s|ed)|resumes?|come back|access|(?:next|another) (?:request|attempt|call|message))(?: again| allowed| possible)?\s+(?:in|after))\b([^.\d]{0,40}?)` +
		`((?:\d+(?:\.\d+)?\s*(?:` + proseUnits + `)[\s,]*(?:and\s+)?)+)([^a-zA-Z](?:ago\b)?|$)`)
	// proseLead is all that stands between those words and a number that is the wait, or ends that: not "or buy 30 days",
	// "later, the limit is 5 hours", "every 5 hours" or "in -5 s".
	proseLead = regexp.MustCompile(`(?i)(?:^\s*(?:for\b)?|[:=~(]|\b(?:in|after|within|until|wait(?:ing)?(?: for)?|time(?: is)?)\b)(?:["'\\*~(\s\x60]|` +
		`\b(?:another|about|approx(?:imately)?|around|roughly|at least|less than|no (?:less|sooner|earlier) than|just|only|under|up to|the next|an? (?:further|additional|minimum of))\b)*$`)
	proseTerm = regexp.MustCompile(`(?i)(\d+(?:\.\d+)?)\s*(` + proseUnits + `)`)
	// proseAfter is what a field says by itself: "Retry-After: 30".
	proseAfter = regexp.MustCompile(`(?i)\bretry[-_ ]?after([-_ ]?ms)?["'\\]*\s?[:= ]\s?["'\\]*(\d+(?:\.\d+)?)(?:["'\\,;)}\]]|\.?$|\.\s)`)
	proseTime  = regexp.MustCompile(`(?i)\b(?:reset(?:s|ting)?|try again|retry|replenish(?:ed|es)|available|access|until|renews?|refresh(?:es)?)\b([^.\d]{0,40}?)\b` +
		`(?:(\d{4}-\d\d-\d\d)(?:T| (?:at )?)(\d\d:\d\d(?::\d\d(?:\.\d+)?)?)` + proseZone +
		`|([a-z]{3}, \d\d [a-z]{3} \d{4} \d\d:\d\d:\d\d GMT|[a-z]{6,9}, \d\d-[a-z]{3}-\d\d \d\d:\d\d:\d\d GMT)|(\d{10}|\d{13})\b)`)
	// proseDigits are those of a date, without which proseTime, which takes longer, need not be tried.
	proseDigits = regexp.MustCompile(`\d\d:\d\d|\d{10}`)
	// proseAt is all that stands between such a word and a number of seconds since 1970: not "request".
	proseAt = regexp.MustCompile(`(?i)^(?:\W|\b(?:at|on|after|time|timestamp|unix|epoch)\b)*$`)
	// proseOfDay is a time of day in a zone that is said: "resets at midnight UTC", "10:30am (America/Los_Angeles)".
	proseOfDay = regexp.MustCompile(`(?i)\b(?:reset(?:s|ting)?|try again|retry|available|access|until|renews?|refresh(?:es)?)\b([^.\d]{0,40}?)\b` +
		`(?:(midnight)|(\d{1,2})(?::([0-5]\d))?(?::([0-5]\d))?\s?(?:([ap])\.?m\b\.?)?)[\s,(]*` +
		`(?:(UTC|GMT|Z)\b\s?([+-]\d{1,2}(?::?\d\d)?\b)?|(?:Pacific|P[DS]?T)\b|([a-z]{2,20}(?:/[a-z_-]{2,20}){1,2})\b)`)
	proseClock = regexp.MustCompile(`(?i)\b(?:try again|retry|reset(?:s|ting)?|replenish(?:ed|es)|available)\b[^.\d]{0,40}?\bin (?:(\d{1,3})\.)?(\d\d):([0-5]\d):([0-5]\d)\b`)
	prosePipe  = regexp.MustCompile(`(?i)limit reached\|(\d{10,13})\b`)

	// proseOne and proseComma are numbers that are written otherwise: "in an hour", "1,200 seconds".
	proseOne   = regexp.MustCompile(`(?i)\b(in|after|for|wait) (?:an?|one) (seconds?|minutes?|hours?|days?|weeks?|months?)\b`)
	proseComma = regexp.MustCompile(`(\d),(\d{3})\b`)
)

// page is how HTML begins, or a part of it.
var page = regexp.MustCompile(`(?i)^<[!?]?[a-z]`)

// prose reads a message as the last resort, unless it is a page.
func (c *collector) prose(message string) {
	if c.best.class > hintText {
		return
	}
	message = strings.Join(strings.Fields(message[:min(len(message), 4096)]), " ") // lines, and spaces that are not to break
	if page.MatchString(message) {
		return
	}
	message = strings.ReplaceAll(message, "(s)", "s") // hour(s)
	if strings.Contains(message, ",") {
		message = proseComma.ReplaceAllString(message, "$1$2")
	}
	told := c.proseInstant(message)
	told = c.proseField(message) || told
	if c.proseSpan(message) || told || c.proseSpan(proseOne.ReplaceAllString(message, "$1 1 $2")) {
		return
	}
	c.proseTimeOfDay(message)
}

// proseInstant reads a date.
func (c *collector) proseInstant(message string) (told bool) {
	if m := prosePipe.FindStringSubmatch(message); m != nil {
		told = c.reset(hintText, "message", m[1])
	}
	if !proseDigits.MatchString(message) {
		return told
	}
	m := proseTime.FindStringSubmatch(message)
	if m == nil {
		return told
	}
	raw := m[6] + m[7]
	switch {
	case m[2] != "":
		offset, ok := proseOffset(m[4], m[5])
		if !ok {
			return told
		}
		raw = m[2] + " " + m[3] + offset
	case m[7] != "" && !proseAt.MatchString(m[1]):
		return told
	}
	if wait, ok := parseReset(raw, c.ref); ok && wait > 0 && wait <= farWait {
		c.add(hintText, wait, "message", raw)
		return true
	}
	return told
}

// proseOffset is a zone as dateLayouts have it; false if none is said, or one that there is not.
func proseOffset(utc, offset string) (string, bool) {
	if offset == "" {
		return "Z", utc != ""
	}
	hours, minutes, split := strings.Cut(offset[1:], ":")
	if !split && len(hours) > 2 {
		hours, minutes = hours[:len(hours)-2], hours[len(hours)-2:]
	}
	h, _ := strconv.Atoi(hours) // digits, as the regular expression has it
	m, _ := strconv.Atoi(minutes)
	return offset[:1] + twoDigits(h) + ":" + twoDigits(m), h <= 14 && m < 60
}

func twoDigits(n int) string {
	return string([]byte{byte('0' + n/10), byte('0' + n%10)})
}

// proseField reads a wait that has no unit, and a field's name.
func (c *collector) proseField(message string) bool {
	m := proseAfter.FindStringSubmatch(message)
	if m == nil {
		return false
	}
	wait, ok := parseRetryAfter(m[2], c.ref)
	if m[1] != "" {
		wait, ok = parseWait(m[2], time.Millisecond)
	}
	if ok && wait > 0 {
		c.add(hintText, wait, "message", m[0])
	}
	return ok && wait > 0
}

// proseSpan reads how long it takes.
func (c *collector) proseSpan(message string) (told bool) {
	if m := proseClock.FindStringSubmatch(message); m != nil { // .NET's TimeSpan, as in what Azure API Management says of a quota
		sum := time.Duration(0)
		for i, unit := range [...]time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
			n, _ := strconv.Atoi(m[i+1]) // no days are none
			sum += time.Duration(n) * unit
		}
		if told = sum > 0; told {
			c.add(hintText, sum, "message", m[0])
		}
	}
	for _, m := range proseWait.FindAllStringSubmatch(message, maxFaults) {
		if !proseLead.MatchString(m[1]) || strings.HasSuffix(m[3], "ago") {
			continue
		}
		var sum time.Duration
		for _, term := range proseTerm.FindAllStringSubmatch(m[2], -1) {
			n, err := strconv.ParseFloat(term[1], 64)
			if err != nil {
				continue
			}
			sum = min(farWait, sum+times(n, proseUnit(term[2])))
		}
		if sum > 0 {
			c.add(hintText, sum, "message", m[2])
		}
		return true
	}
	return told
}

func proseUnit(name string) time.Duration {
	name = strings.ToLower(name)
	switch {
	case strings.HasPrefix(name, "mil"), strings.HasPrefix(name, "ms"):
		return time.Millisecond
	case strings.HasPrefix(name, "mic"), strings.HasPrefix(name, "u"), strings.HasPrefix(name, "µ"):
		return time.Microsecond
	case strings.HasPrefix(name, "mo"):
		return 30 * 24 * time.Hour
	}
	switch name[0] {
	case 'n':
		return time.Nanosecond
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

// proseTimeOfDay reads when in a day something resets.
func (c *collector) proseTimeOfDay(message string) {
	m := proseOfDay.FindStringSubmatch(message)
	if m == nil {
		return
	}
	hour, _ := strconv.Atoi(m[3])
	minute, _ := strconv.Atoi(m[4])
	second, _ := strconv.Atoi(m[5])
	switch half := strings.ToLower(m[6]); {
	case m[2] != "": // midnight
	case half != "" && (hour == 0 || hour > 12), half == "" && (m[4] == "" || hour > 23):
		return // no time of day
	case half == "a":
		hour %= 12
	case half == "p":
		hour = hour%12 + 12
	}
	zone, ok := proseLocation(m[7], m[8], m[9])
	if !ok {
		return
	}
	wait := c.until(hour, minute, second, zone)
	if strings.Contains(strings.ToLower(m[1]), "tomorrow") && wait < 24*time.Hour && c.ref.In(zone).Day() == c.ref.Add(wait).In(zone).Day() {
		wait += 24 * time.Hour
	}
	c.add(hintText, wait, "message", m[0])
}

// proseLocation is where it is so late: UTC, or an offset from it, or a place; Los Angeles if neither is said.
func proseLocation(utc, offset, place string) (*time.Location, bool) {
	switch {
	case offset != "":
		zone, ok := proseOffset(utc, offset)
		if !ok {
			return nil, false
		}
		at, err := time.Parse("Z07:00", zone)
		return at.Location(), err == nil
	case utc != "":
		return time.UTC, true
	case place == "":
		place = "America/Los_Angeles"
	}
	zone, err := time.LoadLocation(place)
	return zone, err == nil
}
