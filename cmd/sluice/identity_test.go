package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunAs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, user string
		env        map[string]string
		want       identity
		err        string
	}{
		{name: "root stays root", want: identity{Keep: true}},
		{name: "sudo by root", env: map[string]string{"SUDO_UID": "0", "SUDO_GID": "0"}, want: identity{Keep: true}},
		{
			name: "sudo by somebody without an account", env: map[string]string{"SUDO_UID": "54321", "SUDO_GID": "54322"},
			want: identity{UID: 54321, GID: 54322, Groups: []uint32{54322}, Home: "/"},
		},
		{
			name: "--user wins over sudo", user: "54323:54324", env: map[string]string{"SUDO_UID": "54321"},
			want: identity{UID: 54323, GID: 54324, Groups: []uint32{54324}, Home: "/"},
		},
		{name: "root by name", user: "root", want: identity{Groups: []uint32{0}, Name: "root", Home: "/root"}},
		{name: "root by number", user: "0", want: identity{Groups: []uint32{0}, Name: "root", Home: "/root"}},
		{name: "another group", user: "root:54325", want: identity{GID: 54325, Groups: []uint32{54325}, Name: "root", Home: "/root"}},
		{name: "number without account or group", user: "54321", err: "--user 54321: user \"54321\" has no account"},
		{name: "unknown user", user: "nobody-of-that-name", err: "there is no user \"nobody-of-that-name\""},
		{name: "unknown group", user: "root:nothing-of-that-name", err: "there is no group \"nothing-of-that-name\""},
		{name: "empty user", user: ":0", err: "the user is missing"},
		{name: "empty group", user: "root:", err: "there is no group \"\""},
		{name: "negative", user: "-1:0", err: "there is no user"},
		{name: "the id that means none", user: "4294967295:0", err: "there is no user"},
		{name: "broken SUDO_UID", env: map[string]string{"SUDO_UID": "x"}, err: "SUDO_UID=x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := runAs(tc.user, func(name string) string { return tc.env[name] })
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error is %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestIdentityEnvironment(t *testing.T) {
	t.Parallel()
	who := identity{Name: "agent", Home: "/home/agent"}
	got := who.environment([]string{"HOME=/root", "PATH=/bin", "USER=root", "HOMER=x"})
	slices.Sort(got)
	want := []string{"HOME=/home/agent", "HOMER=x", "LOGNAME=agent", "PATH=/bin", "USER=agent"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
