package pool

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// accountClaim says which header field names the account that a request is made for,
// and where in a token's claims its value stands.
type accountClaim struct {
	header string // lower case
	space  string // claim that holds an object
	name   string // of the value in that object
}

// maxToken is how long a token may be whose claims are looked at.
const maxToken = 64 << 10

// claimsOf reads the claims of a JWT (RFC 7519 section 3) without a look at its
// signature: it is ours already. It is nil for a token of any other kind.
func claimsOf(token []byte) map[string]json.RawMessage {
	parts := bytes.Split(token[:min(len(token), maxToken)], []byte("."))
	if len(parts) != 3 {
		return nil
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(string(parts[1]), "="))
	if err != nil {
		return nil
	}
	var claims map[string]json.RawMessage
	if json.Unmarshal(text, &claims) != nil {
		return nil
	}
	return claims
}

// maxInstant is the last second that JSON's times can say: the year 9999.
const maxInstant = 253402300799

// EndOf is when a token ends, if it is a JWT that says so (RFC 7519 section 4.1.4).
func EndOf(token []byte) (at time.Time, ok bool) {
	var seconds float64
	if json.Unmarshal(claimsOf(token)["exp"], &seconds) != nil || seconds <= 0 || seconds > maxInstant {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0).UTC(), true
}

// of is the account that a token is for, "" if it does not say.
func (c accountClaim) of(token []byte) string {
	if c.header == "" {
		return ""
	}
	var space map[string]any
	if json.Unmarshal(claimsOf(token)[c.space], &space) != nil {
		return ""
	}
	account, _ := space[c.name].(string)
	if !httpguts.ValidHeaderFieldValue(account) {
		return ""
	}
	return account
}

// extraOf is what goes with each request of a credential: what it was given, and the
// account that its token is for, unless that was given too.
func extraOf(preset Provider, t CredentialType, m *material) []Field {
	var fields []Field
	given := false
	for name, value := range m.Extra {
		name = strings.ToLower(name)
		given = given || name == preset.account.header
		fields = append(fields, Field{Name: name, Value: value})
	}
	if account := preset.account.of(m.Access); t == OAuth && !given && account != "" {
		fields = append(fields, Field{Name: preset.account.header, Value: []byte(account)})
	}
	return fields
}
