package pool

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/sluice-proxy/sluice/pool/echo"
)

// placeholderLife is what agents are told of how long a placeholder token is good, in
// seconds: 23 days. It is good for ever, but a client that sets a timer in milliseconds
// can count to 2^31 of those, and would come back at once.
const placeholderLife = 23 * 24 * 60 * 60

// The same at every call: the tokens say nothing of when they were given out.
const (
	placeholderIssued = 1704067200 // 2024-01-01
	placeholderEnds   = 4102444800 // 2100-01-01
)

// AgentTokens are what an agent holds in the place of an OAuth account's tokens. They
// open nothing.
type AgentTokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
}

// derive is what only this installation can make of a word.
func derive(key []byte, word string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(word))
	return mac.Sum(nil)
}

// placeholder is what an agent holds instead of a secret of the pool: the same at
// every call, unlike that of any other pool or installation, and in the shape of
// the provider's keys, because SDKs look.
func placeholder(key []byte, p Pool) string {
	digest := hex.EncodeToString(derive(key, "placeholder\x00"+p.Name))
	preset, err := ProviderByName(p.Provider)
	if err != nil {
		return "sluice-" + digest[:40]
	}
	return preset.placeholder + strings.Repeat(digest, 2)[:48]
}

// placeholderClaims are the claims of a placeholder token.
type placeholderClaims struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
	Issued  int64  `json:"iat"`
	Ends    int64  `json:"exp"`
	ID      string `json:"jti"`
	Use     string `json:"token_use"`
	Email   string `json:"email"`
	// Codex looks for its account in both of its tokens.
	Account *placeholderAccount `json:"https://api.openai.com/auth,omitempty"`
}

type placeholderAccount struct {
	ID   string `json:"chatgpt_account_id"`
	User string `json:"chatgpt_user_id"`
	Plan string `json:"chatgpt_plan_type"`
}

// agentTokens are a pool's, whichever member serves: the same at every call, and signed
// with a key of the installation's.
func agentTokens(key []byte, p Pool) AgentTokens {
	digest := hex.EncodeToString(derive(key, "placeholder-tokens\x00"+p.Name))
	claims := placeholderClaims{
		Issuer: "sluice", Subject: "agent", Issued: placeholderIssued, Ends: placeholderEnds, Email: "agent@sluice.invalid",
	}
	if preset, err := ProviderByName(p.Provider); err == nil && preset.account.header != "" {
		id := strings.Join([]string{digest[:8], digest[8:12], "4" + digest[13:16], "8" + digest[17:20], digest[20:32]}, "-")
		claims.Account = &placeholderAccount{ID: id, User: "user-" + digest[32:56], Plan: "pro"}
	}
	sign := derive(key, "placeholder-signature\x00"+p.Name)
	token := func(use string) string {
		c := claims
		c.Use, c.ID = use, hex.EncodeToString(derive(sign, use)[:16])
		text, err := json.Marshal(c)
		if err != nil { // strings and numbers only
			panic(err)
		}
		part := base64.RawURLEncoding.EncodeToString
		body := part([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + part(text)
		return body + "." + part(derive(sign, body))
	}
	return AgentTokens{
		AccessToken: token("access"), IDToken: token("id"),
		RefreshToken: "rt_sluice_" + hex.EncodeToString(derive(sign, "refresh")),
	}
}

// echoOf finds what an upstream repeats of an account, for which its placeholder stands in.
func (k *Keeper) echoOf(p Pool, m *material) *echo.Matcher {
	if m.Access == nil {
		return echo.New([]echo.Secret{{Value: m.Secret, Placeholder: []byte(placeholder(k.key, p))}})
	}
	t := agentTokens(k.key, p)
	return echo.New([]echo.Secret{
		{Value: m.Access, Placeholder: []byte(t.AccessToken)},
		{Value: m.Refresh, Placeholder: []byte(t.RefreshToken)},
	})
}

// Placeholders maps the providers' environment variables to placeholders, for the
// named pools, or for all if none is named. Of two pools with one variable, the
// one that was named or made first gives it; a name that no pool has gives none.
func (k *Keeper) Placeholders(pools []string) map[string]string {
	v := &k.view
	env := make(map[string]string)
	if len(pools) == 0 {
		for variable := range v.variables.keys() {
			if p := v.variables.first(variable); p != nil {
				env[variable] = placeholder(k.key, p.pool)
			}
		}
	}
	for _, name := range pools {
		p := v.pool(name)
		if p == nil {
			continue
		}
		preset, err := ProviderByName(p.pool.Provider)
		if err == nil && preset.Env != "" && env[preset.Env] == "" {
			env[preset.Env] = placeholder(k.key, p.pool)
		}
	}
	return env
}

// agentTokensOf are nil for a pool without an OAuth account.
func (k *Keeper) agentTokensOf(p *poolView) *AgentTokens {
	v := &k.view
	for i := range p.members {
		if c, _ := v.credential(p.members[i].name); c.Type == OAuth {
			t := agentTokens(k.key, p.pool)
			return &t
		}
	}
	return nil
}

// AgentTokens are a pool's placeholders for OAuth agents.
func (k *Keeper) AgentTokens(name string) (AgentTokens, error) {
	p := k.view.pool(name)
	if p == nil {
		return AgentTokens{}, k.view.near(NoPool(name))
	}
	return agentTokens(k.key, p.pool), nil
}
