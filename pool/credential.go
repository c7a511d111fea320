package pool

import (
	"bytes"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// CredentialType says how a credential is used.
type CredentialType string

const (
	// Static is a key that is sent as it is.
	Static CredentialType = "static"
	// OAuth is an account with an access token that expires.
	OAuth CredentialType = "oauth"
)

// Credential is a named secret, without the secret.
type Credential struct {
	Name         string
	Type         CredentialType
	Pool         string // the pool it is a member of, or ""
	TokenURL     string
	ClientID     string
	ExtraHeaders []string  // names only: the values may be secret
	ExpiresAt    time.Time // of an OAuth account's access token; else zero
	// Source is where the secret is read from, such as "vault:secret/agents#key"; "" if a
	// person gave it. See [Sources].
	Source string
	// SourceError is why it cannot be read at present; "" if it can.
	SourceError string
	// RefreshFailed is since when the refresh token is not accepted; zero if it is.
	RefreshFailed time.Time
}

// ExtraHeader goes with every request of the credential it belongs to.
type ExtraHeader struct {
	Name  string
	Value vault.Secret
}

// OAuthTokens are what an OAuth account was given.
type OAuthTokens struct {
	AccessToken  vault.Secret
	RefreshToken vault.Secret
	ExpiresAt    time.Time
}

// CredentialSpec is a credential to be stored.
type CredentialSpec struct {
	Name         string
	Type         CredentialType // "" is Static
	Secret       vault.Secret   // of a static credential
	OAuth        *OAuthTokens   // of an OAuth account
	Source       string         // where the secret or the tokens are, if not here
	TokenURL     string
	ClientID     string
	ExtraHeaders []ExtraHeader
}

// CredentialChange replaces what is not nil.
type CredentialChange struct {
	Secret *vault.Secret // is not read from a source any more
	OAuth  *OAuthTokens  // likewise
	// Source is read at once, also if it is the same; "" keeps what was read last.
	Source       *string
	TokenURL     *string
	ClientID     *string
	ExtraHeaders *[]ExtraHeader
}

func (s *CredentialSpec) validate() error {
	if err := ValidName("name", s.Name); err != nil {
		return err
	}
	if s.Type == "" {
		s.Type = Static
	}
	if s.Source != "" {
		if !s.Secret.Empty() || s.OAuth != nil {
			return invalid("source: a secret or tokens are given, too: one of them, not both")
		}
		if s.Type == Static && (s.TokenURL != "" || s.ClientID != "") {
			return invalid("type: token_url and client_id belong to type oauth")
		}
		if err := validSource(s.Source); err != nil {
			return err
		}
		if s.Type == Static || s.Type == OAuth {
			return validAccount(s.TokenURL, s.ExtraHeaders)
		}
	}
	switch s.Type {
	case Static:
		if s.OAuth != nil || s.TokenURL != "" || s.ClientID != "" {
			return invalid("type: a static credential has a secret only; tokens, token_url and client_id belong to type oauth")
		}
		if s.Secret.Empty() {
			return invalid("secret: must not be empty")
		}
		if err := validSecret("secret", s.Secret); err != nil {
			return err
		}
	case OAuth:
		if !s.Secret.Empty() {
			return invalid("secret: a credential of type oauth has tokens instead")
		}
		if s.OAuth == nil {
			return invalid("oauth: a credential of type oauth needs access_token, refresh_token and expires_at")
		}
		if err := s.OAuth.validate(); err != nil {
			return err
		}
	default:
		return invalid("type: %q is neither static nor oauth", s.Type)
	}
	return validAccount(s.TokenURL, s.ExtraHeaders)
}

func (t *OAuthTokens) validate() error {
	if t.AccessToken.Empty() {
		return invalid("oauth.access_token: must not be empty")
	}
	if t.RefreshToken.Empty() {
		return invalid("oauth.refresh_token: must not be empty")
	}
	return validSecret("oauth.access_token", t.AccessToken)
}

// validSecret keeps a secret from breaking out of the field it is sent in, and from being sent there as another one
// than it is: white space around a field's value is no part of it. (RFC 9110 section 5.5, without a string that stays behind.)
func validSecret(field string, s vault.Secret) error {
	secret := s.Bytes()
	switch {
	case bytes.HasPrefix(secret, []byte("\ufeff")):
		return invalid("%s: begins with a byte order mark, which some editors write: save it as ASCII", field)
	case slices.ContainsFunc(secret, func(b byte) bool { return b < ' ' && b != '\t' || b == 0x7f }):
		return invalid("%s: has a line break or another control character, which cannot be sent in a header field", field)
	case slices.ContainsFunc(secret, func(b byte) bool { return b > 0x7f }):
		return invalid("%s: has a character that is not ASCII, which no key has", field)
	case len(bytes.Trim(secret, " \t")) != len(secret):
		return invalid("%s: begins or ends with white space, which no header field can have there", field)
	}
	return nil
}

func validAccount(tokenURL string, extra []ExtraHeader) error {
	if tokenURL != "" {
		u, err := url.Parse(tokenURL)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return invalid("token_url: is not an https URL")
		}
	}
	seen := make(map[string]bool)
	for _, h := range extra {
		if err := validFieldName("extra_headers", h.Name); err != nil {
			return err
		}
		if name := strings.ToLower(h.Name); seen[name] {
			return invalid("extra_headers: %s is given twice", h.Name)
		} else {
			seen[name] = true
		}
		if err := validSecret("extra_headers: "+h.Name, h.Value); err != nil {
			return err
		}
	}
	return nil
}
