package api

import (
	"net/http"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// ListCredentials answers GET /api/credentials.
func (s *Server) ListCredentials(w http.ResponseWriter, r *http.Request) {
	credentials, err := s.ops.ListCredentials(r.Context())
	list := make([]Credential, 0, len(credentials))
	for _, c := range credentials {
		list = append(list, newCredential(c))
	}
	s.answer(w, r, http.StatusOK, list, err)
}

// AddCredential answers POST /api/credentials.
func (s *Server) AddCredential(w http.ResponseWriter, r *http.Request) {
	body, err := decode[CredentialSpec](r)
	if err != nil {
		fail(w, r, s.log, err)
		return
	}
	made, err := s.ops.AddCredential(r.Context(), actor(r), body.spec())
	s.answer(w, r, http.StatusCreated, newCredential(made), err)
}

// UpdateCredential answers PATCH /api/credentials/{name}.
func (s *Server) UpdateCredential(w http.ResponseWriter, r *http.Request, name CredentialName) {
	change, err := decode[CredentialChange](r)
	if err != nil {
		fail(w, r, s.log, err)
		return
	}
	changed, err := s.ops.UpdateCredential(r.Context(), actor(r), name, change.change())
	s.answer(w, r, http.StatusOK, newCredential(changed), err)
}

// RemoveCredential answers DELETE /api/credentials/{name}.
func (s *Server) RemoveCredential(w http.ResponseWriter, r *http.Request, name CredentialName) {
	s.answer(w, r, http.StatusNoContent, nil, s.ops.RemoveCredential(r.Context(), actor(r), name))
}

func (s CredentialSpec) spec() pool.CredentialSpec {
	spec := pool.CredentialSpec{
		Name: s.Name, Type: pool.CredentialType(deref(s.Type)), Secret: vault.NewSecret([]byte(deref(s.Secret))),
		OAuth: s.Oauth.tokens(), Source: deref(s.Source), TokenURL: deref(s.TokenUrl), ClientID: deref(s.ClientId),
	}
	if s.ExtraHeaders != nil {
		spec.ExtraHeaders = headers(*s.ExtraHeaders)
	}
	return spec
}

func (c CredentialChange) change() pool.CredentialChange {
	change := pool.CredentialChange{OAuth: c.Oauth.tokens(), Source: c.Source, TokenURL: c.TokenUrl, ClientID: c.ClientId}
	if c.Secret != nil {
		secret := vault.NewSecret([]byte(*c.Secret))
		change.Secret = &secret
	}
	if c.ExtraHeaders != nil {
		list := headers(*c.ExtraHeaders)
		change.ExtraHeaders = &list
	}
	return change
}

func (t *OAuthTokens) tokens() *pool.OAuthTokens {
	if t == nil {
		return nil
	}
	return &pool.OAuthTokens{
		AccessToken: vault.NewSecret([]byte(t.AccessToken)), RefreshToken: vault.NewSecret([]byte(t.RefreshToken)), ExpiresAt: t.ExpiresAt.UTC(),
	}
}

func headers(given []ExtraHeader) []pool.ExtraHeader {
	list := make([]pool.ExtraHeader, 0, len(given))
	for _, h := range given {
		list = append(list, pool.ExtraHeader{Name: h.Name, Value: vault.NewSecret([]byte(h.Value))})
	}
	return list
}

func newCredential(c pool.Credential) Credential {
	return Credential{
		Name: c.Name, Type: CredentialType(c.Type), Source: c.Source, SourceError: c.SourceError, Pool: c.Pool, TokenUrl: c.TokenURL, ClientId: c.ClientID,
		ExtraHeaders: array(c.ExtraHeaders), ExpiresAt: instant(c.ExpiresAt),
	}
}
