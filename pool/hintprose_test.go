package pool

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

// TestHintsInProse reads what an error's message says, and no more than that: none is -1.
func TestHintsInProse(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC) // 1795455000
	for message, want := range map[string]float64{
		"Please wait for 2 hours 13 minutes or switch to another model.":   7980,
		"Resets in 2 hour(s) 5 minute(s)":                                  7500,
		"Please try again in one minute.":                                  60,
		"Try again in an hour.":                                            3600,
		"Rate limit: 100 requests/min; retry after a minute.":              60,
		"Wait a few minutes before you try again.":                         -1,
		"You sent 1,500 requests in a minute. Try again later.":            -1,
		"Please slow down: try again in 1,200 seconds":                     1200,
		"You can make another request in 17 seconds.":                      17,
		"Next request allowed in 12 seconds":                               12,
		"Come back in 17 minutes.":                                         1020,
		"The limit will be lifted in 25 minutes":                           1500,
		"Your usage will be restored in 2 hours.":                          7200,
		"Rate limited; backoff 45 seconds":                                 45,
		"Cooldown: 45s":                                                    45,
		"Unlock 30 days of Plus":                                           -1,
		"Plus unlocks 5 hours more":                                        -1,
		"Service restored 5 minutes ago":                                   -1,
		"Access for 30 days":                                               -1,
		"Your account reached max RPM: 3, please try again after 1 second": 10,

		"Retry-After: 30":                       30,
		"Retry-After: 30, Limit: 5":             30,
		"upstream said {'retry_after': 12.5}":   12.5,
		"retry_after_ms=45000":                  45,
		"Please retry after 31.":                31,
		"Please retry after 3 attempts":         -1,
		"Please retry after 30.5 requests":      -1,
		"Retry after 0":                         -1,
		"Retry after 1795455300":                300,
		"Rate limit resets at 1795458000":       3000,
		"Reset time: 1795458000000":             3000,
		"Rate limit reset at 1295455300":        -1,
		"Rate limit resets at 179545530000":     -1,
		"Retry request 1795458000":              -1,
		"Try again in 30 s, request 1795458000": 30,

		"It will reset at 2026-11-24 02:00:00 (UTC+8)":      1800,
		"It will reset at 2026-11-24 02:00:00 (UTC+08:00)":  1800,
		"It will reset at 2026-11-24T02:00:00 GMT+8":        1800,
		"It will reset at 2026-11-23 18:00:00 Z":            1800,
		"It will reset at 2026-11-23 12:00:00 -0600 CST":    1800,
		"It will reset at 2026-11-23 12:00:00 CST":          -1,
		"It will reset at 2026-11-23 18:00:00 UTC+1":        -1,
		"It resets 2026-11-23 18:00-19:00 UTC":              -1,
		"Retry after Monday, 23-Nov-26 18:00:00 GMT":        1800,
		"Your limit resets at 18:00 UTC":                    1800,
		"Your limit resets at 6:00 PM UTC.":                 1800,
		"Your limit resets at 18:00:30 (UTC)":               1830,
		"Your limit resets at 02:00 UTC+8":                  1800,
		"Your limit resets at 1:01 PM GMT-0430":             60,
		"5-hour limit reached · resets 7pm (Europe/Berlin)": 1800,
		"Limit reached, resets 10:30am (America/New_York)":  21600,
		"Limit reached, resets 1:30 p.m. America/New_York":  3600,
		"Quota resets at 10:30 Pacific":                     3600,
		"Limits reset daily at 00:00:00 UTC":                21600,
		"Try again after midnight UTC":                      21600,
		"Try again tomorrow at 6pm UTC":                     21600,
		"resets at 12am UTC":                                21600,
		"resets at 5:31 PM":                                 -1,
		"resets at 5:31 PM Eastern":                         -1,
		"resets at 6 UTC":                                   -1,
		"resets at 25:00 UTC":                               -1,
		"resets at 13pm UTC":                                -1,
		"resets at 6pm (Nowhere/Land)":                      -1,
		"resets on Dec 1 at 18:00 UTC":                      -1,
		"resets at 18:00 UTC+25":                            -1,

		"<b>Try again in 5 minutes</b>":       -1,
		"<?xml version=\"1.0\"?> retry in 5m": -1,
		"With < 5 left, try again in 15 s":    15,
	} {
		body, err := json.Marshal(object{"error": object{"message": message}})
		if err != nil {
			t.Fatal(err)
		}
		h, got := ParseHint(429, nil, body, now), -1.0
		if h.Known() {
			got = clampCooldown(h.Wait).Seconds()
		}
		if math.Abs(got-want) > 0.001 {
			t.Errorf("%q: %v s (%s), want %v", message, got, h, want)
		}
	}
}
