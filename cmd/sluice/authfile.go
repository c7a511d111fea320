package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/pool"
)

// accountHeader names the ChatGPT account in requests of Codex's.
const accountHeader = "chatgpt-account-id"

// codexFile is what Codex keeps in ~/.codex/auth.json, as far as it is read.
type codexFile struct {
	AuthMode string  `json:"auth_mode"` // apikey or chatgpt; older files have none
	Key      *string `json:"OPENAI_API_KEY"`
	Tokens   *struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Account string `json:"account_id"`
	} `json:"tokens"`
}

// codexCredentials is the one credential that Codex uses: its login if it has one and is
// not told to use the key.
func codexCredentials(raw []byte, o importOptions, now time.Time) (imported, error) {
	var f codexFile
	if err := authJSON(raw, &f); err != nil {
		return imported{}, err
	}
	const name = "codex"
	key := ""
	if f.Key != nil {
		key = strings.TrimSpace(*f.Key)
	}
	if f.Tokens == nil || (key != "" && f.AuthMode == "apikey") {
		if key == "" {
			return imported{}, errors.New("OPENAI_API_KEY and tokens are missing: run 'codex login' first")
		}
		found := imported{specs: []api.CredentialSpec{staticSpec(name, key)}}
		nameAll(found.specs, o.name)
		return found, nil
	}
	switch {
	case f.Tokens.Access == "":
		return imported{}, errors.New("tokens.access_token is missing or empty")
	case f.Tokens.Refresh == "":
		return imported{}, errors.New("tokens.refresh_token is missing or empty")
	}
	codex, err := pool.ProviderByName("codex")
	if err != nil {
		return imported{}, err
	}
	spec := accountSpec(name, f.Tokens.Access, f.Tokens.Refresh, endOf(f.Tokens.Access, now))
	spec.TokenUrl, spec.ClientId = optional(cmp.Or(o.tokenURL, codex.TokenURL)), optional(cmp.Or(o.clientID, codex.ClientID))
	if f.Tokens.Account != "" { // else it is in the token's claims
		spec.ExtraHeaders = &[]api.ExtraHeader{{Name: accountHeader, Value: f.Tokens.Account}}
	}
	found := imported{specs: []api.CredentialSpec{spec}}
	nameAll(found.specs, o.name)
	return found, nil
}

// hermesEntry is one of credential_pool.PROVIDER[] in ~/.hermes/auth.json.
type hermesEntry struct {
	ID          string          `json:"id"`
	Label       string          `json:"label"`
	AuthType    string          `json:"auth_type"` // api_key or oauth
	Priority    float64         `json:"priority"`
	Source      string          `json:"source"`
	Access      string          `json:"access_token"` // the key, too
	Refresh     string          `json:"refresh_token"`
	ExpiresAt   json.RawMessage `json:"expires_at"` // RFC 3339, or seconds
	ExpiresAtMS float64         `json:"expires_at_ms"`
	ClientID    string          `json:"client_id"`
	// Fingerprint is there when the secret is not: Hermes takes it from Source then.
	Fingerprint string `json:"secret_fingerprint"`
}

// hermesCredentials are the entries of all providers, or of one, by provider and priority.
func hermesCredentials(raw []byte, o importOptions, now time.Time) (imported, error) {
	var f struct {
		Pool map[string][]hermesEntry `json:"credential_pool"`
	}
	if err := authJSON(raw, &f); err != nil {
		return imported{}, err
	}
	providers := make([]string, 0, len(f.Pool))
	for name := range f.Pool {
		if o.provider == "" || o.provider == name {
			providers = append(providers, name)
		}
	}
	slices.Sort(providers)
	var found imported
	logins := make(map[string]string) // where a refresh token stands first
	for _, provider := range providers {
		entries := make([]int, len(f.Pool[provider]))
		for i := range entries {
			entries[i] = i
		}
		slices.SortStableFunc(entries, func(a, b int) int {
			return cmp.Compare(f.Pool[provider][a].Priority, f.Pool[provider][b].Priority)
		})
		for _, i := range entries {
			e, at := &f.Pool[provider][i], fmt.Sprintf("credential_pool.%s[%d]", provider, i)
			if e.Access == "" && e.Fingerprint != "" {
				found.notes = append(found.notes, fmt.Sprintf("%s has no secret of its own: it is from %q", at, e.Source))
				continue
			}
			spec, err := e.spec(provider, at, o, now)
			if err != nil {
				return imported{}, err
			}
			if spec.Oauth != nil {
				if first, again := logins[spec.Oauth.RefreshToken]; again {
					found.notes = append(found.notes, fmt.Sprintf("%s is the same login as %s", at, first))
					continue
				}
				logins[spec.Oauth.RefreshToken] = at
			}
			found.specs = append(found.specs, spec)
		}
	}
	switch {
	case len(found.specs) > 0:
		nameAll(found.specs, o.name)
		return found, nil
	case len(found.notes) > 0:
		return imported{}, errors.New(strings.Join(found.notes, "; "))
	case o.provider != "":
		return imported{}, fmt.Errorf("credential_pool.%s is missing or empty", o.provider)
	}
	return imported{}, errors.New("credential_pool is missing or empty: run 'hermes auth add' first")
}

func (e *hermesEntry) spec(provider, at string, o importOptions, now time.Time) (api.CredentialSpec, error) {
	name := provider + "-" + cmp.Or(e.Label, e.ID, "credential")
	// Hermes takes these for logins whatever the entry says; those for a year have nothing to be renewed with.
	login := provider == "anthropic" && strings.HasPrefix(e.Access, "sk-ant-oat")
	oauth := e.AuthType == "oauth" || login
	switch {
	case e.Access == "":
		return api.CredentialSpec{}, fmt.Errorf("%s.access_token is missing or empty", at)
	case !oauth && e.AuthType != "" && e.AuthType != "api_key":
		return api.CredentialSpec{}, fmt.Errorf("%s.auth_type: %q is neither api_key nor oauth", at, e.AuthType)
	case !oauth, login && e.Refresh == "":
		return staticSpec(name, e.Access), nil
	case e.Refresh == "":
		return api.CredentialSpec{}, fmt.Errorf("%s.refresh_token is missing or empty", at)
	}
	ends, err := e.ends(now)
	if err != nil {
		return api.CredentialSpec{}, fmt.Errorf("%s.%w", at, err)
	}
	spec := accountSpec(name, e.Access, e.Refresh, ends)
	tokenURL, clientID := o.tokenURL, cmp.Or(o.clientID, e.ClientID)
	if provider == "openai-codex" {
		codex, err := pool.ProviderByName("codex")
		if err != nil {
			return api.CredentialSpec{}, err
		}
		tokenURL, clientID = cmp.Or(tokenURL, codex.TokenURL), cmp.Or(clientID, codex.ClientID)
	}
	spec.TokenUrl, spec.ClientId = optional(tokenURL), optional(clientID)
	return spec, nil
}

// ends is when the access token does: what the entry says, else what the token says.
func (e *hermesEntry) ends(now time.Time) (time.Time, error) {
	if e.ExpiresAtMS > 0 && e.ExpiresAtMS < maxInstant*1000 {
		return time.UnixMilli(int64(e.ExpiresAtMS)).UTC(), nil
	}
	if len(e.ExpiresAt) == 0 || string(e.ExpiresAt) == "null" || string(e.ExpiresAt) == `""` {
		return endOf(e.Access, now), nil
	}
	var seconds float64
	if json.Unmarshal(e.ExpiresAt, &seconds) == nil && seconds > 0 && seconds < maxInstant {
		return time.Unix(int64(seconds), 0).UTC(), nil
	}
	var text string
	if json.Unmarshal(e.ExpiresAt, &text) == nil {
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return at.UTC(), nil
		}
	}
	return time.Time{}, errors.New("expires_at is neither a time such as 2026-01-02T15:04:05Z nor seconds since 1970")
}

// maxInstant is the last second that JSON's times can say: the year 9999.
const maxInstant = 253402300800

// endOf is when a token says that it ends. If it does not say, it is now: the token is
// refreshed before it is used.
func endOf(token string, now time.Time) time.Time {
	if at, ok := pool.EndOf([]byte(token)); ok {
		return at
	}
	return now
}

// authJSON decodes a file. Its errors do not quote it: it holds secrets.
func authJSON(raw []byte, into any) error {
	err := json.Unmarshal(raw, into)
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && kind.Field != "" {
		return fmt.Errorf("%s is a JSON %s, where another kind belongs", kind.Field, strings.Fields(kind.Value + " value")[0])
	}
	if err != nil {
		return errors.New("not a JSON object: is this the right file?")
	}
	return nil
}

func staticSpec(name, key string) api.CredentialSpec {
	kind := api.Static
	return api.CredentialSpec{Name: derivedName(name), Type: &kind, Secret: &key}
}

func accountSpec(name, access, refresh string, ends time.Time) api.CredentialSpec {
	kind := api.Oauth
	return api.CredentialSpec{
		Name: derivedName(name), Type: &kind,
		Oauth: &api.OAuthTokens{AccessToken: access, RefreshToken: refresh, ExpiresAt: ends},
	}
}

// derivedName makes a name of a label that people gave: a mail address, say.
func derivedName(label string) string {
	name := strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
			return c
		}
		return '-'
	}, label)
	return strings.TrimLeft(name[:min(len(name), pool.MaxName-len("-999"))], "-")
}

// nameAll gives several credentials different names.
func nameAll(specs []api.CredentialSpec, given string) {
	if given != "" {
		for i := range specs {
			specs[i].Name = given
			if len(specs) > 1 {
				specs[i].Name = fmt.Sprintf("%s-%d", given, i+1)
			}
		}
		return
	}
	taken := make(map[string]bool)
	for i := range specs {
		name := specs[i].Name
		for n := 2; taken[specs[i].Name]; n++ {
			specs[i].Name = fmt.Sprintf("%s-%d", name, n)
		}
		taken[specs[i].Name] = true
	}
}
