package pool

import (
	"encoding/json"
	"net/url"
	"path"
	"slices"
	"strings"
)

// tokenDigest is how a token is remembered that must be known when it is seen: nobody
// without the installation's key can find one to a digest.
type tokenDigest [32]byte

func (k *Keeper) digestOf(token string) tokenDigest {
	return tokenDigest(derive(k.key, "token\x00"+token))
}

// maxFormer is how many of an account's spent refresh tokens are known. Of more the
// first are kept, which an agent's own file may hold, and the last.
const maxFormer = 32

// spent says whether a refresh token was given up for another.
func (m *material) spent(digest tokenDigest) bool {
	return slices.ContainsFunc(m.Former, func(d []byte) bool { return string(d) == string(digest[:]) })
}

// spend notes that the refresh token at hand is given up for another.
func (m *material) spend(digest tokenDigest) {
	if m.spent(digest) {
		return
	}
	m.Former = append(m.Former, digest[:])
	if len(m.Former) > maxFormer {
		m.Former = slices.Delete(m.Former, maxFormer/2, maxFormer/2+1)
	}
}

// tokenURL is where an account is refreshed: its own endpoint, or its provider's.
func (v *view) tokenURL(c Credential) string {
	if c.TokenURL != "" {
		return c.TokenURL
	}
	if p := v.pool(c.Pool); p != nil {
		return p.tokenURL()
	}
	return ""
}

// tokenURL is the provider's endpoint, "" if it has none.
func (p *poolView) tokenURL() string {
	preset, err := ProviderByName(p.pool.Provider)
	if err != nil {
		return ""
	}
	return preset.TokenURL
}

// clientID is the account's own, or its provider's.
func (k *Keeper) clientID(c Credential) string {
	if c.ClientID != "" || c.TokenURL != "" {
		return c.ClientID
	}
	if p := k.view.pool(c.Pool); p != nil {
		if preset, err := ProviderByName(p.pool.Provider); err == nil {
			return preset.ClientID
		}
	}
	return ""
}

// endpointAt is where a token endpoint is asked, if a connection to it can be recognised.
func endpointAt(endpoint string) (at hostPort, u *url.URL, ok bool) {
	u, err := url.Parse(endpoint)
	if err != nil || endpoint == "" {
		return at, nil, false
	}
	name, port, err := ParseHostPort(u.Host)
	if err != nil {
		return at, nil, false
	}
	if name, err = validHost(name); err != nil {
		return at, nil, false
	}
	return hostPort{name, port}, u, true
}

// endpointHost is the host of that, or none.
func endpointHost(endpoint string) []string {
	if at, _, ok := endpointAt(endpoint); ok {
		return []string{at.host}
	}
	return nil
}

// endpointPath is a path, clean, on a token endpoint's host.
type endpointPath struct {
	hostPort
	path string
}

// bindEndpoint has what agents send to a token endpoint looked at. An endpoint
// without a name that a connection could be recognised by is left alone.
func (p *poolView) bindEndpoint(endpoint string) {
	at, u, ok := endpointAt(endpoint)
	if !ok {
		return
	}
	if !slices.Contains(p.refresh, at) {
		p.refresh = append(p.refresh, at)
	}
	if !slices.Contains(p.ports, at.port) {
		p.ports = append(p.ports, at.port)
	}
	tokens := path.Clean("/" + u.Path)
	p.gives = append(p.gives, endpointPath{at, tokens})
	// No answer of the endpoint's names it (RFC 8414 does): this is where OpenAI, Google, GitLab and others have it.
	p.ends = append(p.ends, endpointPath{at, path.Join(path.Dir(tokens), "revoke")})
}

// endpointKind is what a path on a token endpoint's host is for.
type endpointKind uint8

const (
	givesTokens endpointKind = iota + 1
	endsTokens               // revocation, RFC 7009
)

// learn makes the tokens of a pool's account known.
func (k *Keeper) learn(p *poolView, m *material) {
	for _, token := range [][]byte{m.Access, m.Refresh, m.Secret} {
		if len(token) > 0 {
			p.known = append(p.known, k.digestOf(string(token)))
		}
	}
	for _, d := range m.Former {
		if len(d) == len(tokenDigest{}) {
			p.known = append(p.known, tokenDigest(d))
		}
	}
}

// learnPlaceholders makes a pool's placeholders known.
func (k *Keeper) learnPlaceholders(p *poolView) {
	t := agentTokens(k.key, p.pool)
	for _, token := range []string{placeholder(k.key, p.pool), t.AccessToken, t.RefreshToken, t.IDToken} {
		p.known = append(p.known, k.digestOf(token))
	}
}

// TokenEndpoint says whether a request is for a token endpoint of a pool.
func (k *Keeper) TokenEndpoint(r Route, target string) bool {
	return k.endpointKind(r, target) == givesTokens
}

// RevocationEndpoint says whether it is for the endpoint beside one, where a login is ended.
func (k *Keeper) RevocationEndpoint(r Route, target string) bool {
	return k.endpointKind(r, target) == endsTokens
}

func (k *Keeper) endpointKind(r Route, target string) endpointKind {
	if !r.Tokens {
		return 0
	}
	p, _, _ := strings.Cut(target, "?")
	if plain, err := url.PathUnescape(p); err == nil {
		p = plain
	}
	at := endpointPath{hostPort{r.Host, r.Port}, path.Clean("/" + p)}
	switch {
	case k.view.gives.first(at) != nil:
		return givesTokens
	case k.view.ends.first(at) != nil:
		return endsTokens
	}
	return 0
}

// StandIn is what a token endpoint would answer (RFC 6749 section 5.1), with
// placeholders, to who sent one of a pool's placeholders, or a token of a member's, now
// or formerly: to forward that would spend the account. It says no if none of the values
// is one.
func (k *Keeper) StandIn(values []string) ([]byte, bool) {
	for _, value := range values {
		p := k.view.known.first(k.digestOf(value))
		if p == nil {
			continue
		}
		body, err := json.Marshal(struct {
			AgentTokens
			Type    string `json:"token_type"`
			Expires int    `json:"expires_in"`
		}{agentTokens(k.key, p.pool), "Bearer", placeholderLife})
		return body, err == nil
	}
	return nil, false
}
