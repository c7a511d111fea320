package main

import (
	"testing"
	"time"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	names := []string{"members", "member", "provider", "host", "header"}
	for _, tc := range []struct{ typed, want string }{
		{"membres", "members"},
		{"memberz", "members"},
		{"hots", "host"},
		{"hesder", "header"},
		{"provide", "provider"},
		{"xyzzy", ""},
		{"", ""},
	} {
		if got := nearest(tc.typed, names); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.typed, got, tc.want)
		}
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for want, seconds := range map[string]int{
		"0s": 0, "59s": 59, "1m": 60, "1m05s": 65, "41m": 41*60 + 20, "2h14m": 2*3600 + 14*60, "47h00m": 47 * 3600, "2d3h": 51 * 3600,
	} {
		if got := span(time.Duration(seconds) * time.Second); got != want {
			t.Errorf("%d s: %q, want %q", seconds, got, want)
		}
	}
}
