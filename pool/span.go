package pool

import (
	"strings"
	"time"
)

// Span is a duration for people, rounded up: seconds below two minutes ("57s",
// "1m30s"), minutes from there on ("41m", "2h14m", "6h").
func Span(d time.Duration) string {
	if d <= time.Second {
		return "1s"
	}
	unit := time.Second
	if d > 2*time.Minute {
		unit = time.Minute
	}
	// Rounded up, but for the instant that passes between two readings of a clock.
	d = (d - 50*time.Millisecond + unit - 1).Truncate(unit)
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
