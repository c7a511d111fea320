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
	if p := v.pools[c.Pool]; p != nil {
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
	if p := k.view.Load().pools[c.Pool]; p != nil {
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

// bindEndpoint has what agents send to a token endpoint looked at. An endpoint
// without a name that a connection could be recognised by is left alone.
func (v *view) bindEndpoint(p *poolView, endpoint string) {
	at, u, ok := endpointAt(endpoint)
	if !ok {
		return
	}
	if !slices.Contains(p.refresh, at) {
		p.refresh = append(p.refresh, at)
		v.endpoints[at] = append(v.endpoints[at], p)
	}
	if v.paths[at] == nil {
		v.paths[at] = make(map[string]endpointKind)
	}
	tokens := path.Clean("/" + u.Path)
	v.paths[at][tokens] = givesTokens
	// No answer of the endpoint's names it (RFC 8414 does): this is where OpenAI, Google, GitLab and others have it.
	if revoke := path.Join(path.Dir(tokens), "revoke"); v.paths[at][revoke] == 0 {
		v.paths[at][revoke] = endsTokens
	}
}

// endpointKind is what a path on a token endpoint's host is for.
type endpointKind uint8

const (
	givesTokens endpointKind = iota + 1
	endsTokens               // revocation, RFC 7009
)

// learn makes a pool's placeholders and the tokens of its accounts known.
func (k *Keeper) learn(v *view, p *poolView, m *material) {
	for _, token := range [][]byte{m.Access, m.Refresh, m.Secret} {
		if len(token) > 0 {
			v.known[k.digestOf(string(token))] = p
		}
	}
	for _, d := range m.Former {
		if len(d) == len(tokenDigest{}) {
			v.known[tokenDigest(d)] = p
		}
	}
}

func (k *Keeper) learnPlaceholders(v *view, p *poolView) {
	t := agentTokens(k.key, p.pool)
	for _, token := range []string{placeholder(k.key, p.pool), t.AccessToken, t.RefreshToken, t.IDToken} {
		v.known[k.digestOf(token)] = p
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
	return k.view.Load().paths[hostPort{r.Host, r.Port}][path.Clean("/"+p)]
}

// StandIn is what a token endpoint would answer (RFC 6749 section 5.1), with
// placeholders, to who sent one of a pool's placeholders, or a token of a member's, now
// or formerly: to forward that would spend the account. It says no if none of the values
// is one.
func (k *Keeper) StandIn(values []string) ([]byte, bool) {
	v := k.view.Load()
	for _, value := range values {
		p := v.known[k.digestOf(value)]
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
