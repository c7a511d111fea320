package pool

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	proseWait = regexp.MustCompile(`(?i)\b(?:try again|retry(?:_?(?:after|delay|in))?|reset(?:s|ting)?|replenish(?:ed|es)|wait|available(?:\s+again)?\s+(?:in|after)|renews?|refresh(?:es)?)\b([^.\d]{0,40}?)` +
		`((?:\d+(?:\.\d+)?\s*(?:` + proseUnits + `)[\s,]*(?:and\s+)?)+)([^a-zA-Z](?:ago\b)?|$)`)
	// proseLead is all that stands between those words and a number that is the wait, or ends that: not "or buy 30 days",
	// "later, the limit is 5 hours", "every 5 hours" or "in -5 s".
	proseLead = regexp.MustCompile(`(?i)(?:^\s*(?:for\b)?|[:=~(]|\b(?:in|after|within|until|wait(?:ing)?(?: for)?|time(?: is)?)\b)(?:["'\\*~(\s\x60]|` +
		`\b(?:another|about|approx(?:imately)?|around|roughly|at least|less than|no (?:less|sooner|earlier) than|just|only|under|up to|the next|an? (?:further|additional|minimum of))\b)*$`)
	proseTerm = regexp.MustCompile(`(?i)(\d+(?:\.\d+)?)\s*(` + proseUnits + `)`)
	proseTime = regexp.MustCompile(`(?i)\b(?:resets?|try again|retry|available|access|until|renews?|refresh(?:es)?)\b[^.\d]{0,40}?` +
		`(\d{4}-\d\d-\d\d(?:T| (?:at )?)\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:\s?\(?(?:Z|UTC|GMT)|\s?[+-]\d\d:?\d\d)?|\b[a-z]{3}, \d\d [a-z]{3} \d{4} \d\d:\d\d:\d\d GMT)`)
	proseMidnight = regexp.MustCompile(`(?i)\bresets?\b[^.\d]{0,40}?\b(?:midnight|00:00)[\s,(]*(?:(UTC|GMT)|Pacific|P[DS]?T)\b`)
	proseClock    = regexp.MustCompile(`(?i)\b(?:try again|retry|reset(?:s|ting)?|replenish(?:ed|es)|available)\b[^.\d]{0,40}?\bin (?:(\d{1,3})\.)?(\d\d):([0-5]\d):([0-5]\d)\b`)
	prosePipe     = regexp.MustCompile(`(?i)limit reached\|(\d{10,13})\b`)
)

// proseDate makes of a date in a sentence, "2026-12-01 at 00:00 UTC", one that is parsed.
var proseDate = strings.NewReplacer(" at ", " ", " UTC", "Z", " (UTC", "Z", " (GMT", "Z")

// page is how HTML begins.
var page = regexp.MustCompile(`(?i)^<(?:!doctype|html|head|body)\b`)

const proseUnits = `months?|milliseconds?|msecs?|ms|microseconds?|[uµ]s|nanoseconds?|ns|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w`

// prose reads a message as the last resort, unless it is a page.
func (c *collector) prose(message string) {
	if c.best.class > hintText {
		return
	}
	message = strings.Join(strings.Fields(message[:min(len(message), 4096)]), " ") // lines, and spaces that are not to break
	if page.MatchString(message) {
		return
	}
	if m := prosePipe.FindStringSubmatch(message); m != nil {
		c.reset(hintText, "message", m[1])
	}
	if m := proseTime.FindStringSubmatch(message); m != nil {
		if t, ok := parseDate(proseDate.Replace(m[1])); ok && t.After(c.ref) {
			c.add(hintText, t.Sub(c.ref), "message", m[1])
		}
	}
	if m := proseClock.FindStringSubmatch(message); m != nil { // .NET's TimeSpan, as in what Azure API Management says of a quota
		sum := time.Duration(0)
		for i, unit := range [...]time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
			n, _ := strconv.Atoi(m[i+1]) // no days are none
			sum += time.Duration(n) * unit
		}
		if sum > 0 {
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
		return
	}
	if m := proseMidnight.FindStringSubmatch(message); m != nil {
		zone := "America/Los_Angeles"
		if m[1] != "" {
			zone = "UTC"
		}
		if wait, ok := c.untilMidnight(zone); ok {
			c.add(hintText, wait, "message", m[0])
		}
	}
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
