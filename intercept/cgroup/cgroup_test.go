package cgroup

import (
	"errors"
	"strings"
	"testing"
)

func TestFindMount(t *testing.T) {
	t.Parallel()
	const (
		v1      = "31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
		pure    = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid  = "32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n"
		partial = "40 20 0:22 /user.slice /mnt/part rw - cgroup2 cgroup2 rw\n"
		spaces  = `41 20 0:22 / /mnt/a\040b\134c rw - cgroup2 cgroup2 rw` + "\n"
		named   = "42 20 0:50 / /mnt/cgroup2 rw - tmpfs cgroup2 rw\n"
	)
	for name, c := range map[string]struct{ text, want string }{
		"pure v2":                {v1 + pure, "/sys/fs/cgroup"},
		"hybrid":                 {v1 + hybrid, "/sys/fs/cgroup/unified"},
		"the whole before parts": {partial + hybrid, "/sys/fs/cgroup/unified"},
		"only a part":            {v1 + partial, "/mnt/part"},
		"the first of two":       {pure + hybrid, "/sys/fs/cgroup"},
		"escaped":                {spaces, `/mnt/a b\c`},
		"v1 alone":               {v1, ""},
		"another type's source":  {named, ""},
		"a line cut short":       {"25 20 - cgroup2 x\n", ""},
		"nothing":                {"", ""},
	} {
		got, err := findMount(strings.NewReader(c.text))
		if got != c.want || (c.want == "") != errors.Is(err, ErrNotMounted) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func TestFindUnified(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, want string
		err        error
	}{
		"pure":               {"0::/system.slice/a.service\n", "/system.slice/a.service", nil},
		"hybrid":             {"4:memory:/m\n1:name=systemd:/s\n0::/docker/x\n", "/docker/x", nil},
		"root":               {"0::/\n", "/", nil},
		"a name with colons": {"0::/a:b::c\n", "/a:b::c", nil},
		"removed":            {"0::/a (deleted)\n", "", ErrGone},
		"v1 alone":           {"4:memory:/m\n", "", ErrNotMounted},
	} {
		got, err := findUnified(strings.NewReader(c.text))
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := findUnified(strings.NewReader("0::/../other\n")); err == nil {
		t.Error("a path outside of the cgroup namespace was taken")
	}
}

func TestWithin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path, ancestor string
		want           bool
	}{
		{"/c/a", "/c/a", true},
		{"/c/a/b", "/c/a", true},
		{"/c/ab", "/c/a", false},
		{"/c", "/c/a", false},
		{"/c/a", "/", true},
	} {
		if got := Within(c.path, c.ancestor); got != c.want {
			t.Errorf("Within(%q, %q) is %t", c.path, c.ancestor, got)
		}
	}
}

func FuzzFindMount(f *testing.F) {
	f.Add("25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")
	f.Add(`1 1 0:1 / /a\04 rw - cgroup2 x` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := findMount(strings.NewReader(text))
		if (got == "") == (err == nil) {
			t.Errorf("%q, %v", got, err)
		}
	})
}
