package pool

import "testing"

func TestNearest(t *testing.T) {
	t.Parallel()
	names := []string{"members", "member", "provider", "host", "header", "Main", "work-2", "work-1"}
	for _, tc := range []struct{ typed, want string }{
		{"membres", "members"},
		{"memberz", "member"},
		{"hots", "host"},
		{"hesder", "header"},
		{"provide", "provider"},
		{"main", "Main"},
		{"mian", "Main"},
		{"work-3", "work-1"},
		{"xyzzy", ""},
		{"h", ""},
		{"", ""},
	} {
		if got := Nearest(tc.typed, names); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.typed, got, tc.want)
		}
	}
}

func FuzzNearest(f *testing.F) {
	f.Add("membres", "members")
	f.Add("", "\xff")
	f.Fuzz(func(t *testing.T, a, b string) {
		d := distance(a, b)
		if d != distance(b, a) || (d == 0) != (a == b) || d > max(len(a), len(b)) {
			t.Errorf("%q, %q: %d and %d", a, b, d, distance(b, a))
		}
		if got := Nearest(a, []string{b}); got != "" && got != b {
			t.Errorf("%q is none of %q", got, b)
		}
	})
}
