package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control/api"
)

func TestNextEnd(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 4, 0, 0, 0, time.UTC)
	in := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	const slack = 50 * time.Millisecond
	for name, tc := range map[string]struct {
		members []api.Member
		wait    time.Duration
		found   bool
	}{
		"nobody is out":            {members: []api.Member{{State: api.Active}, {State: api.Parked}}},
		"parked is without an end": {members: []api.Member{{State: api.Parked, Until: in(time.Minute)}}},
		"the soonest":              {members: []api.Member{{State: api.Cooldown, Until: in(time.Hour)}, {State: api.Cooldown, Until: in(time.Minute)}}, wait: time.Minute + slack, found: true},
		"late":                     {members: []api.Member{{State: api.Cooldown, Until: in(-time.Minute)}}, wait: time.Second, found: true},
	} {
		wait, found := nextEnd(api.PoolStatus{Members: tc.members}, now)
		if wait != tc.wait || found != tc.found {
			t.Errorf("%s: %s, %v", name, wait, found)
		}
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 11, 24, 4, 0, 0, 0, time.UTC)
	before := api.PoolStatus{Name: "p", Members: []api.Member{{Name: "a", State: api.Cooldown, Until: &until, RemainingSeconds: 20}}}
	later := before
	later.Members = []api.Member{{Name: "a", State: api.Cooldown, Until: &until, RemainingSeconds: 10}}
	if !same(before, later) || before.Members[0].RemainingSeconds != 20 {
		t.Error("time that passes is a change, or the comparison is")
	}
	later.Members[0].State = api.Standby
	if same(before, later) {
		t.Error("another state is none")
	}
}

func TestHeight(t *testing.T) {
	t.Parallel()
	for painted, lines := range map[string]int{
		"": 0, "\n": 1, "12345\n": 1, "1234567890\n": 1, "12345678901\n": 2, "\x1b[32m1234567890\x1b[0m\nx\n": 2, "ä234567890\n": 1,
	} {
		if got := height(painted, 10); got != lines {
			t.Errorf("%q takes %d lines, not %d", painted, got, lines)
		}
	}
}

func TestFitting(t *testing.T) {
	t.Parallel()
	const painted = "pool  p\n\na  active\nb  standby\nc  standby\n"
	for lines, want := range map[int]string{
		6: painted, 5: painted,
		4: "pool  p\n\na  active\n... and 2 more\n",
		2: "pool  p\n... and 4 more\n",
	} {
		if got := fitting(painted, 80, lines); got != want {
			t.Errorf("in %d lines: %q, want %q", lines, got, want)
		}
	}
	if got := fitting(painted, 5, 4); !strings.HasPrefix(got, "pool  p\n\n... and 3 more") {
		t.Errorf("where lines wrap: %q", got)
	}
}
