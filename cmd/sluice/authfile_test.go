package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-proxy/sluice/control/api"
)

// madeUp is a token with claims and no good signature.
func madeUp(claims string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

// told is what a test looks at of a credential.
func told(specs []api.CredentialSpec) string {
	var all []string
	for _, s := range specs {
		text := s.Name + " " + string(*s.Type)
		if s.Secret != nil {
			text += " " + *s.Secret
		}
		if s.Oauth != nil {
			text += " " + strings.ReplaceAll(s.Oauth.AccessToken, madeUp(`{"exp":1900000000}`), "JWT") + " " + s.Oauth.RefreshToken + " " +
				s.Oauth.ExpiresAt.Format(time.RFC3339)
		}
		if s.TokenUrl != nil {
			text += " " + *s.TokenUrl
		}
		if s.ClientId != nil {
			text += " " + *s.ClientId
		}
		if s.ExtraHeaders != nil {
			for _, h := range *s.ExtraHeaders {
				text += " [" + h.Name + ": " + h.Value + "]"
			}
		}
		all = append(all, text)
	}
	return strings.Join(all, "\n")
}

const codexEnd = " https://auth.openai.com/oauth/token app_EMoamEEZ73f0CkXaXp7hrann"

func TestAuthFiles(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 5, 0, 0, 0, time.UTC)
	jwt := madeUp(`{"exp":1900000000}`)
	const jwtEnds = "2030-03-17T17:46:40Z"
	for _, tc := range []struct {
		name, agent, file string
		o                 importOptions
		want, err, note   string
	}{
		{name: "a key", agent: "codex", file: `{"OPENAI_API_KEY":"sk-canary"}`, want: "codex static sk-canary"},
		{
			name: "a login", agent: "codex", o: importOptions{name: "work"},
			file: `{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":"i","access_token":"` + jwt + `","refresh_token":"rt","account_id":"acc"},
				"last_refresh":"2026-11-20T00:00:00Z"}`,
			want: "work oauth JWT rt " + jwtEnds + codexEnd + " [chatgpt-account-id: acc]",
		},
		{
			name: "a login whose account is in its claims only", agent: "codex",
			file: `{"tokens":{"access_token":"` + jwt + `","refresh_token":"rt"}}`, want: "codex oauth JWT rt " + jwtEnds + codexEnd,
		},
		{
			name: "a token that does not say when it ends", agent: "codex", file: `{"tokens":{"access_token":"opaque","refresh_token":"rt"}}`,
			want: "codex oauth opaque rt 2026-11-24T05:00:00Z" + codexEnd,
		},
		{
			name: "another endpoint", agent: "codex", o: importOptions{tokenURL: "https://t.example/", clientID: "c"},
			file: `{"tokens":{"access_token":"opaque","refresh_token":"rt"}}`, want: "codex oauth opaque rt 2026-11-24T05:00:00Z https://t.example/ c",
		},
		{
			name: "both, and the login is used", agent: "codex",
			file: `{"OPENAI_API_KEY":"sk-canary","tokens":{"access_token":"opaque","refresh_token":"rt"}}`,
			want: "codex oauth opaque rt 2026-11-24T05:00:00Z" + codexEnd,
		},
		{
			name: "both, and the key is used", agent: "codex",
			file: `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-canary","tokens":{"access_token":"opaque","refresh_token":"rt"}}`,
			want: "codex static sk-canary",
		},
		{name: "neither", agent: "codex", file: `{"OPENAI_API_KEY":null,"tokens":null}`, err: "OPENAI_API_KEY and tokens are missing: run 'codex login'"},
		{name: "no access", agent: "codex", file: `{"tokens":{"refresh_token":"canary"}}`, err: "tokens.access_token is missing"},
		{name: "no refresh", agent: "codex", file: `{"tokens":{"access_token":"canary"}}`, err: "tokens.refresh_token is missing"},
		{name: "a number", agent: "codex", file: `{"tokens":{"access_token":31415926}}`, err: "tokens.access_token is a JSON number"},
		{name: "text", agent: "codex", file: `canary`, err: "not a JSON object"},
		{name: "a list", agent: "codex", file: `["canary"]`, err: "not a JSON object"},
		{
			name: "all providers, by priority", agent: "hermes", file: `{"version":1,"credential_pool":{
				"openrouter":[{"id":"b1","label":"later","auth_type":"api_key","priority":1,"access_token":"sk-or-2"},
					{"id":"b2","label":"first one","auth_type":"api_key","priority":0,"access_token":"sk-or-1","last_status":"exhausted"}],
				"openai-codex":[{"id":"c1","label":"me@example.com","auth_type":"oauth","access_token":"` + jwt + `","refresh_token":"rt","last_refresh":"2026-11-20T00:00:00Z"}]}}`,
			want: "openai-codex-me-example.com oauth JWT rt " + jwtEnds + codexEnd +
				"\nopenrouter-first-one static sk-or-1\nopenrouter-later static sk-or-2",
		},
		{
			name: "one provider, a name given", agent: "hermes", o: importOptions{provider: "openrouter", name: "or"},
			file: `{"credential_pool":{"openrouter":[{"access_token":"k1"},{"access_token":"k2"}],"x":[{}]}}`, want: "or-1 static k1\nor-2 static k2",
		},
		{
			name: "the same label twice", agent: "hermes", file: `{"credential_pool":{"x":[{"label":"l","access_token":"k1"},{"label":"l","access_token":"k2"}]}}`,
			want: "x-l static k1\nx-l-2 static k2",
		},
		{
			name: "ends as text, seconds and milliseconds", agent: "hermes", file: `{"credential_pool":{"x":[
				{"id":"a","auth_type":"oauth","access_token":"t","refresh_token":"r","expires_at":"2027-01-02T03:04:05.5+00:00","client_id":"own"},
				{"id":"b","auth_type":"oauth","access_token":"t","refresh_token":"r2","expires_at":1900000000},
				{"id":"c","auth_type":"oauth","access_token":"t","refresh_token":"r3","expires_at_ms":1900000000000}]}}`,
			want: "x-a oauth t r 2027-01-02T03:04:05Z own\nx-b oauth t r2 " + jwtEnds + "\nx-c oauth t r3 " + jwtEnds,
		},
		{
			name: "one login twice", agent: "hermes", file: `{"credential_pool":{"x":[
				{"label":"l","auth_type":"oauth","access_token":"t","refresh_token":"r","expires_at":1900000000},
				{"label":"m","auth_type":"oauth","access_token":"t","refresh_token":"r","expires_at":1900000000}]}}`,
			want: "x-l oauth t r " + jwtEnds, note: "credential_pool.x[1] is the same login as credential_pool.x[0]",
		},
		{
			name: "a secret that is elsewhere", agent: "hermes",
			file: `{"credential_pool":{"x":[{"source":"env:KEY","secret_fingerprint":"f"},{"label":"l","access_token":"k"}]}}`,
			want: "x-l static k", note: `credential_pool.x[0] has no secret of its own: it is from "env:KEY"`,
		},
		{name: "only elsewhere", agent: "hermes", file: `{"credential_pool":{"x":[{"source":"env:KEY","secret_fingerprint":"f"}]}}`, err: "no secret of its own"},
		{name: "one without a key", agent: "hermes", file: `{"credential_pool":{"x":[{"access_token":"canary"},{"label":"l"}]}}`, err: "credential_pool.x[1].access_token is missing"},
		{
			name: "a login for a year", agent: "hermes", file: `{"credential_pool":{"anthropic":[{"label":"l","auth_type":"oauth","access_token":"sk-ant-oat01-y"},
				{"label":"m","auth_type":"api_key","access_token":"sk-ant-oat01-z","refresh_token":"rt","expires_at":1900000000}]}}`,
			want: "anthropic-l static sk-ant-oat01-y\nanthropic-m oauth sk-ant-oat01-z rt 2030-03-17T17:46:40Z",
		},
		{name: "a login without refresh", agent: "hermes", file: `{"credential_pool":{"x":[{"auth_type":"oauth","access_token":"canary"}]}}`, err: "credential_pool.x[0].refresh_token is missing"},
		{name: "an end that is none", agent: "hermes", file: `{"credential_pool":{"x":[{"auth_type":"oauth","access_token":"t","refresh_token":"r","expires_at":"canary"}]}}`, err: "credential_pool.x[0].expires_at is neither"},
		{name: "another kind", agent: "hermes", file: `{"credential_pool":{"x":[{"auth_type":"aws","access_token":"canary"}]}}`, err: `credential_pool.x[0].auth_type: "aws"`},
		{name: "no pool", agent: "hermes", file: `{"providers":{"x":"canary"}}`, err: "credential_pool is missing"},
		{name: "not that provider", agent: "hermes", o: importOptions{provider: "y"}, file: `{"credential_pool":{"x":[{"access_token":"canary"}]}}`, err: "credential_pool.y is missing"},
	} {
		t.Run(tc.agent+" "+tc.name, func(t *testing.T) {
			t.Parallel()
			found, err := importers[tc.agent]([]byte(tc.file), tc.o, now)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "31415926") {
					t.Fatalf("error is %v, want one with %q and without a secret", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, told(found.specs)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got := strings.Join(found.notes, ", "); got != tc.note {
				t.Errorf("notes %q, want %q", got, tc.note)
			}
		})
	}
}

// Whatever is in a file: no panic, no two names alike, and no quote of it in an error.
func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"OPENAI_API_KEY":"k","tokens":{"access_token":"a.e30.c","refresh_token":"r","account_id":"i"}}`))
	f.Add([]byte(`{"credential_pool":{"x":[{"label":"l","access_token":"k1","expires_at":1e300},{"label":"l","access_token":"k2","auth_type":"oauth","refresh_token":"r"}]}}`))
	f.Add([]byte(`{"credential_pool":{"\u00e9":[{"label":"l-2","access_token":"k"},{"label":"l","access_token":"k"},{"label":"l","access_token":"k"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for agent, read := range importers {
			found, err := read(raw, importOptions{}, time.Unix(0, 0).UTC())
			if (err == nil) != (len(found.specs) > 0) {
				t.Fatalf("%s: %d credentials, %v", agent, len(found.specs), err)
			}
			seen := make(map[string]bool)
			for _, s := range found.specs {
				if seen[s.Name] || len(s.Name) > 64 {
					t.Errorf("%s: name %q", agent, s.Name)
				}
				seen[s.Name] = true
				if s.Oauth != nil {
					if _, err := s.Oauth.ExpiresAt.MarshalJSON(); err != nil {
						t.Errorf("%s: %v", agent, err)
					}
				}
			}
			if strings.Contains(fmt.Sprint(found.specs), "REDACTED") == (len(found.specs) == 0) {
				t.Errorf("%s: printed as %v", agent, found.specs)
			}
		}
	})
}
