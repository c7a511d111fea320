package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control/api"
)

func TestReadSecret(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, in, want, err string }{
		{"plain", "key", "key", ""},
		{"one line break goes", "key\n", "key", ""},
		{"only one goes", "key\n\n", "key\n", ""},
		{"of windows too", "key\r\n", "key", ""},
		{"spaces stay", " key ", " key ", ""},
		{"empty", "", "", "empty"},
		{"only a line break", "\n", "", "empty"},
		{"only space", "  \n", "", "empty"},
		{"too long", strings.Repeat("k", maxSecret+1), "", "longer than"},
		{"as long as can be", strings.Repeat("k", maxSecret), strings.Repeat("k", maxSecret), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := &cli{env: env{stdin: strings.NewReader(tc.in)}}
			got, err := c.readSecret(api.Static)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error is %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil || string(got) != tc.want {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

// An end is shown with its date unless the time of day says which one is meant.
func TestMoment(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 23, 30, 0, 0, time.Local)
	c := &cli{env: env{now: func() time.Time { return now }}}
	for away, want := range map[time.Duration]string{
		-time.Hour:                   "2026-11-28 22:30:00",
		41 * time.Minute:             "00:11:00 (in 41m)",
		24*time.Hour - time.Second:   "23:29:59 (in 23h59m)",
		24 * time.Hour:               "2026-11-29 23:30:00 (in 24h00m)",
		9*24*time.Hour + 2*time.Hour: "2026-12-08 01:30:00 (in 9d2h)",
	} {
		at := now.Add(away)
		if got := c.moment(&at); got != want {
			t.Errorf("in %s: %q, want %q", away, got, want)
		}
	}
	if got := c.moment(nil); got != "-" {
		t.Errorf("%q for no end", got)
	}
}

func TestParseAccount(t *testing.T) {
	t.Parallel()
	const canary = "canary-5f1c"
	for _, tc := range []struct{ name, in, err string }{
		{"complete", `{"access_token":"a","refresh_token":"r","expires_at":"2030-01-02T03:04:05+01:00"}`, ""},
		{"no json", canary, "not a JSON object"},
		{"array", `["` + canary + `"]`, "not a JSON object"},
		{"null", `null`, "not a JSON object"},
		{"string", `"` + canary + `"`, "not a JSON object"},
		{"two", `{"access_token":"a","refresh_token":"r","expires_at":"2030-01-02T03:04:05Z"} {}`, "something follows"},
		{"access missing", `{"refresh_token":"` + canary + `","expires_at":"2030-01-02T03:04:05Z"}`, "access_token"},
		{"refresh empty", `{"access_token":"` + canary + `","refresh_token":"","expires_at":"2030-01-02T03:04:05Z"}`, "refresh_token"},
		{"refresh no string", `{"access_token":"` + canary + `","refresh_token":5,"expires_at":"2030-01-02T03:04:05Z"}`, "refresh_token"},
		{"expiry a number", `{"access_token":"` + canary + `","refresh_token":"r","expires_at":1700000000}`, "expires_at"},
		{"expiry no time", `{"access_token":"a","refresh_token":"r","expires_at":"` + canary + `"}`, "expires_at"},
		{"unknown field", `{"access_token":"` + canary + `","refresh_token":"r","expires_at":"2030-01-02T03:04:05Z","scope":"x"}`, `"scope"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			account, err := parseAccount([]byte(tc.in))
			if tc.err == "" {
				want := api.OAuthTokens{AccessToken: "a", RefreshToken: "r", ExpiresAt: time.Date(2030, 1, 2, 2, 4, 5, 0, time.UTC)}
				if err != nil || *account != want {
					t.Errorf("%v, %v; want %v", account, err, want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("error is %v, want one with %q", err, tc.err)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
}

func FuzzParseAccount(f *testing.F) {
	f.Add([]byte(`{"access_token":"a","refresh_token":"r","expires_at":"2030-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"access_token":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		account, err := parseAccount(raw)
		if (account == nil) == (err == nil) {
			t.Fatalf("neither or both: %v, %v", account, err)
		}
		if err == nil && (account.AccessToken == "" || account.RefreshToken == "") {
			t.Fatalf("incomplete: %v", account)
		}
	})
}

func TestExtraHeaders(t *testing.T) {
	t.Parallel()
	flags := credFlags{headers: []string{"chatgpt-account-id: 12:34", "X-A:b"}}
	headers, err := flags.extraHeaders()
	if err != nil {
		t.Fatal(err)
	}
	want := []api.ExtraHeader{{Name: "chatgpt-account-id", Value: "12:34"}, {Name: "X-A", Value: "b"}}
	for i, h := range *headers {
		if h != want[i] {
			t.Errorf("%v, want %v", h, want[i])
		}
	}
	for _, bad := range []string{"", "name", "name:", "name:  ", ": value"} {
		if _, err := (&credFlags{headers: []string{bad}}).extraHeaders(); err == nil {
			t.Errorf("%q is taken for a header", bad)
		}
	}
}
