package pool

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Provider is a preset: everything about an API that a pool for it needs.
type Provider struct {
	Name   string
	Hosts  []string
	Header string // template for static credentials, and for OAuth accounts unless OAuthHeader is set
	// OAuthHeader is the template for OAuth accounts, where it differs.
	OAuthHeader string
	Env         string // the agent's variable, "" if it has none
	// Strip names the fields, lower case, in which clients of this API send credentials.
	Strip      []string
	StripQuery []string
	// TokenURL and ClientID are where and as what the provider's own agent refreshes its
	// account, "" if that is not known.
	TokenURL, ClientID string
	// oauthToken is how the access tokens of its OAuth accounts begin, "" if that does not tell
	// them from keys: one that lasts for long may be had without a refresh token.
	oauthToken string
	// oauthAlso is an element of a list in a field, without which the API takes no OAuth
	// account's token; the zero value if it needs none.
	oauthAlso Field
	// account is the field that names an OAuth account, where the API wants one.
	account accountClaim
	// placeholder gives a key's shape: SDKs refuse what does not look like one.
	placeholder string
	// body is the provider's own error for too many requests.
	body func(e *ExhaustedError) any
}

// Providers returns the presets, by name.
func Providers() []Provider {
	bearer := "Authorization: Bearer {token}"
	return []Provider{
		{
			Name: "anthropic", Hosts: []string{"api.anthropic.com"}, Header: "x-api-key: {token}", OAuthHeader: bearer,
			Env: "ANTHROPIC_API_KEY", Strip: []string{"x-api-key", "authorization"}, placeholder: "sk-ant-api03-", body: anthropicBody,
			oauthToken: "sk-ant-oat", // also what 'claude setup-token' prints
			// What has a key of its own does not say so: "OAuth authentication is currently not supported."
			oauthAlso: Field{Name: "anthropic-beta", Value: []byte("oauth-2025-04-20")},
		},
		{
			Name: "codex", Hosts: []string{"chatgpt.com"}, Header: bearer,
			Strip: []string{"authorization", "chatgpt-account-id"}, placeholder: "sk-proj-", body: codexBody,
			TokenURL: "https://auth.openai.com/oauth/token", ClientID: "app_EMoamEEZ73f0CkXaXp7hrann",
			account: accountClaim{header: "chatgpt-account-id", space: "https://api.openai.com/auth", name: "chatgpt_account_id"},
		},
		{
			Name: "gemini", Hosts: []string{"generativelanguage.googleapis.com"}, Header: "x-goog-api-key: {token}", Env: "GEMINI_API_KEY",
			Strip: []string{"x-goog-api-key", "authorization"}, StripQuery: []string{"key"}, placeholder: "AIzaSy", body: geminiBody,
		},
		{
			Name: "github", Hosts: []string{"api.github.com"}, Header: bearer, Env: "GH_TOKEN",
			Strip: []string{"authorization"}, placeholder: "ghp_", body: githubBody,
		},
		{
			Name: "openai", Hosts: []string{"api.openai.com"}, Header: bearer, Env: "OPENAI_API_KEY",
			Strip: []string{"authorization"}, placeholder: "sk-proj-", body: openaiBody,
		},
		{
			Name: "openrouter", Hosts: []string{"openrouter.ai"}, Header: bearer, Env: "OPENROUTER_API_KEY",
			Strip: []string{"authorization"}, placeholder: "sk-or-v1-", body: openrouterBody,
		},
	}
}

// ProviderByName finds a preset. Error: [CodeInvalid], naming those there are.
func ProviderByName(name string) (Provider, error) {
	all := Providers()
	i := slices.IndexFunc(all, func(p Provider) bool { return p.Name == name })
	if i >= 0 {
		return all[i], nil
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.Name
	}
	return Provider{}, invalid("provider: there is no preset %q; there are %s, and --host with --header for any other", name, strings.Join(names, ", "))
}

// ofAccount says whether a token is that of an OAuth account: by the kind of its credential, or as
// it begins.
func (p Provider) ofAccount(t CredentialType, token []byte) bool {
	return t == OAuth || p.oauthToken != "" && bytes.HasPrefix(token, []byte(p.oauthToken))
}

// templateFor is the header template for an OAuth account or a key.
func (p Provider) templateFor(account bool) string {
	if account && p.OAuthHeader != "" {
		return p.OAuthHeader
	}
	return p.Header
}

type object map[string]any

// message is what the agent's user reads.
func (e *ExhaustedError) message() string {
	who := fmt.Sprintf("All %d credentials of pool %q are", e.Members, e.Pool)
	if e.Members == 1 {
		who = fmt.Sprintf("The only credential of pool %q is", e.Pool)
	}
	if e.Tied != "" {
		who = fmt.Sprintf("Credential %q of pool %q made what this request names (%s), and only it can go on with that. It is", e.Soonest, e.Pool, e.Tied)
	}
	reason, _, _ := strings.Cut(e.Reason, ":") // what exactly the upstream said is not the agent's concern
	switch {
	case e.RecoversAt.IsZero():
		return fmt.Sprintf("%s out, with no known end. Try again in %s.", who, Span(e.RetryAfter))
	case reason == "" || strings.HasPrefix(reason, "rate limit"):
		return fmt.Sprintf("%s rate limited. Try again in %s.", who, Span(e.RetryAfter))
	default:
		return fmt.Sprintf("%s out: %s. Try again in %s.", who, reason, Span(e.RetryAfter))
	}
}

func openaiBody(e *ExhaustedError) any {
	return object{"error": object{"message": e.message(), "type": "requests", "param": nil, "code": "rate_limit_exceeded"}}
}

func codexBody(e *ExhaustedError) any {
	return object{"error": object{
		"type": "usage_limit_reached", "message": e.message(), "resets_in_seconds": int64(e.RetryAfter / time.Second),
		// Codex says the time, and shows no other words; without one it is "Try again later."
		"resets_at": e.RetryAt.Add(time.Second - 1).Unix(),
	}}
}

func anthropicBody(e *ExhaustedError) any {
	return object{"type": "error", "error": object{"type": "rate_limit_error", "message": e.message()}}
}

func geminiBody(e *ExhaustedError) any {
	return object{"error": object{
		"code": 429, "message": e.message(), "status": "RESOURCE_EXHAUSTED",
		"details": []object{{
			"@type":      "type.googleapis.com/google.rpc.RetryInfo",
			"retryDelay": fmt.Sprintf("%ds", int64(e.RetryAfter/time.Second)),
		}},
	}}
}

func githubBody(e *ExhaustedError) any {
	return object{"message": "API rate limit exceeded. " + e.message()}
}

func openrouterBody(e *ExhaustedError) any {
	return object{"error": object{"code": 429, "message": e.message()}}
}

// Body is what an exhausted pool answers, in the provider's own error shape.
func (e *ExhaustedError) Body() (contentType string, body []byte) {
	shape := openaiBody // what most clients of other APIs understand
	for _, p := range Providers() {
		if p.Name == e.Provider {
			shape = p.body
		}
	}
	body, err := json.Marshal(shape(e))
	if err != nil { // strings and numbers only
		body = []byte(`{"error":{"message":"rate limited"}}`)
	}
	return "application/json", body
}
