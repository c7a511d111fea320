package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// redeem asks the token endpoint and stores what it gives.
func (k *Keeper) redeem(ctx context.Context, name, why string) error {
	c, m, err := k.spendable(ctx, name)
	if err != nil {
		return err
	}
	endpoint := k.view.tokenURL(c)
	if endpoint == "" || len(m.Refresh) == 0 {
		return errNotRefreshable
	}
	asked := vault.NewSecret(slices.Clone(m.Refresh))
	defer asked.Zero()
	cfg := oauth2.Config{
		ClientID: k.clientID(c),
		// Guessing the style would spend the refresh token on the guess.
		Endpoint: oauth2.Endpoint{TokenURL: endpoint, AuthStyle: oauth2.AuthStyleInParams},
	}
	client := *k.opts.HTTP
	client.Transport = tolerant{cmp.Or(client.Transport, http.DefaultTransport)}
	rctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, &client), refreshTimeout)
	defer cancel()
	token, err := cfg.TokenSource(rctx, &oauth2.Token{RefreshToken: string(m.Refresh)}).Token()
	if err != nil {
		return k.explainRefusal(name, asked, err)
	}
	tokens := &OAuthTokens{
		AccessToken: vault.NewSecret([]byte(token.AccessToken)), RefreshToken: vault.NewSecret([]byte(token.RefreshToken)), ExpiresAt: token.Expiry,
	}
	if ends, ok := EndOf(tokens.AccessToken.Bytes()); ok && tokens.ExpiresAt.IsZero() && ends.After(k.opts.Now()) {
		tokens.ExpiresAt = ends
	}
	if err := tokens.validate(); err != nil {
		return fmt.Errorf("the token endpoint's answer: %w", err)
	}
	for {
		err := k.keepTokens(ctx, name, asked, tokens, why)
		if err == nil || errors.Is(err, errReplaced) || k.closing() {
			return err
		}
		k.opts.Log.Error("new tokens of an account are not stored, trying again", "credential", name, "error", err)
		time.Sleep(storeRetry)
	}
}

func (k *Keeper) closing() bool {
	k.refresh.mu.Lock()
	defer k.refresh.mu.Unlock()
	return k.refresh.closed
}

// explainRefusal leaves out of the library's error what the endpoint said: it may repeat
// a token.
func (k *Keeper) explainRefusal(name string, asked vault.Secret, err error) error {
	said, ok := errors.AsType[*oauth2.RetrieveError](err)
	if failed, is := errors.AsType[*url.Error](err); is {
		err = failed.Err // without the URL, which is what a redirection asked for
	}
	if !ok {
		return fmt.Errorf("ask the token endpoint: %w", err)
	}
	if code := rejection(said); code != "" {
		return &RejectedError{Credential: name, Code: code, of: k.digestOf(string(asked.Bytes()))}
	}
	e := &endpointError{said: "the token endpoint's answer gives no token"}
	if r := said.Response; r != nil {
		e.said = fmt.Sprintf("the token endpoint answered %d", r.StatusCode)
		e.wait, _ = parseRetryAfter(r.Header.Get("Retry-After"), k.opts.Now())
	}
	if isCode(said.ErrorCode) {
		e.said += " " + said.ErrorCode
	}
	return e
}

// isCode says whether a text is like an error's name: some endpoints have a sentence there.
func isCode(s string) bool {
	return len(s) > 0 && len(s) <= 40 && !strings.ContainsFunc(s, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })
}

// rejection is the code with which an endpoint refuses a refresh token for good, "" if it
// does not: RFC 6749 section 5.2 and RFC 6750 section 3.1 have the first two, OpenAI the
// others, and that not as the error but inside of it.
func rejection(said *oauth2.RetrieveError) string {
	root, _ := parseBody(said.Body)
	codes := []string{said.ErrorCode}
	for _, e := range faults(nil, root)[1:] {
		codes = append(codes, text(e, "code"), text(e, "type"))
	}
	for _, code := range codes {
		switch code {
		case "invalid_grant", "invalid_token", "token_expired",
			"refresh_token_expired", "refresh_token_reused", "refresh_token_invalidated":
			return code
		}
	}
	return ""
}

// spendable reads what is stored of an account, and whether anything can be stored for it: a
// refresh token is spent for one that can be kept.
func (k *Keeper) spendable(ctx context.Context, name string) (Credential, *material, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, m, err := k.account(ctx, name)
	if err != nil {
		return Credential{}, nil, err
	}
	if err := k.opts.Store.UpdateCredential(ctx, r, Change{}, nil); err != nil {
		return Credential{}, nil, fmt.Errorf("nothing can be stored, so the refresh token is not spent: %w", err)
	}
	return r.Credential, m, nil
}

// account reads what is stored of a credential.
func (k *Keeper) account(ctx context.Context, name string) (CredentialRecord, *material, error) {
	r, err := k.opts.Store.Credential(ctx, name)
	if known, is := errors.AsType[*Error](err); is && known.Code == CodeNotFound {
		return CredentialRecord{}, nil, errReplaced
	}
	if err != nil {
		return CredentialRecord{}, nil, err
	}
	m, err := k.open(&r)
	return r, m, err
}

// keepTokens makes new tokens durable and then visible, unless somebody has given the
// account others since asked was redeemed.
func (k *Keeper) keepTokens(ctx context.Context, name string, asked vault.Secret, t *OAuthTokens, why string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, m, err := k.account(ctx, name)
	if err != nil {
		return err
	}
	if !asked.Equal(vault.NewSecret(m.Refresh)) {
		return errReplaced
	}
	if !asked.Equal(t.RefreshToken) {
		m.spend(k.digestOf(string(m.Refresh)))
	}
	m.Access, m.Refresh = t.AccessToken.Bytes(), t.RefreshToken.Bytes()
	r.Credential.ExpiresAt, r.Credential.RefreshFailed = t.ExpiresAt, time.Time{}
	if r.Sealed, err = k.seal(m); err != nil {
		return err
	}
	e := Event{Kind: EventRefresh, Pool: r.Credential.Pool, Member: name, Reason: why, Until: t.ExpiresAt, Time: k.opts.Now()}
	if err := k.replace(context.WithValue(ctx, noteKey{}, e), r, m, true, nil); err != nil {
		return fmt.Errorf("store the new tokens: %w", err)
	}
	return nil
}

// replace makes what a credential is now durable and then visible. If it has another secret, or other tokens, a cooldown
// whose reason was that those before were not accepted ends with that. ready is the store's. The lock is held.
func (k *Keeper) replace(ctx context.Context, r CredentialRecord, m *material, another bool, ready func() error) error {
	var revival Change
	if another {
		var err error
		if revival, err = k.revival(ctx, r.Credential); err != nil {
			// It ends in its time. Tokens that are not stored would be lost.
			k.opts.Log.Error("whether a cooldown ends with what was replaced is not known", "credential", r.Credential.Name, "error", err)
		}
	}
	with := revival
	waits := revival.Pool != 0 && k.save(ctx) != nil // it is not to overtake what came before it
	if waits {
		with = Change{}
	}
	if err := k.opts.Store.UpdateCredential(ctx, r, with, ready); err != nil {
		return err
	}
	k.holders.add(k, r.Credential.Name, m)
	k.events.raise()
	ctx = context.WithoutCancel(ctx)
	if err := k.look(ctx, r.Credential.Pool, r.Credential.Name); err != nil {
		return err
	}
	p := k.view.byID[revival.Pool]
	switch {
	case p == nil:
	case waits:
		k.apply(ctx, p, revival)
	default:
		k.reveal(p, revival)
	}
	return nil
}

// revival is the end of such a cooldown; none if the credential's member has no such one. The lock is held.
func (k *Keeper) revival(ctx context.Context, c Credential) (Change, error) {
	p := k.view.pool(c.Pool)
	if p == nil {
		return Change{}, nil
	}
	i := 0
	for i < len(p.members) && p.members[i].name != c.Name {
		i++
	}
	if i == len(p.members) {
		return Change{}, nil
	}
	cool, err := k.cooldownLocked(ctx, p.members[i].id)
	if err != nil || !cool.rejected() {
		return Change{}, err
	}
	change := Change{Pool: p.id, Cooldowns: map[int64]Cooldown{p.members[i].id: {}}, At: k.opts.Now()}
	if p.state.Load() == StateExhausted {
		change.To, change.EdgeEvent = StateHealthy, recoveredEvent(p, c.Name)
	}
	return change, nil
}

// rejected cools the member whose account cannot be refreshed, if it is of no use any
// more, and says so once. Error: [errReplaced], if it is another account by now.
func (k *Keeper) rejected(ctx context.Context, e *RejectedError, refused bool, wait time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, m, err := k.account(ctx, e.Credential)
	if err == nil && k.digestOf(string(m.Refresh)) != e.of {
		err = errReplaced
	}
	if err != nil {
		return err
	}
	k.hasten(e.Credential) // its source may have others by now
	now := k.opts.Now()
	ended := refused && now.Before(r.Credential.ExpiresAt)
	if ended {
		r.Credential.ExpiresAt = now // whatever was said of it
	}
	if r.Credential.RefreshFailed.IsZero() {
		r.Credential.RefreshFailed, ended = now, true
		note := Event{Kind: EventRefreshFailed, Pool: r.Credential.Pool, Member: e.Credential, Reason: e.Code, Detail: e.Error(), Time: now}
		ctx = context.WithValue(ctx, noteKey{}, note)
	}
	if ended {
		if err := k.opts.Store.UpdateCredential(ctx, r, Change{}, nil); err != nil {
			return err
		}
		k.events.raise()
		if err := k.look(ctx, r.Credential.Pool, e.Credential); err != nil {
			return err
		}
	}
	p := k.view.pool(r.Credential.Pool)
	if p == nil || now.Before(r.Credential.ExpiresAt) {
		return nil // the token at hand is good for a while
	}
	for i := range p.members {
		if p.members[i].name == e.Credential {
			return k.cool(ctx, p, i, Verdict{Outcome: OutcomeAuthFailed, Rejected: e.Code, wait: wait}, false, nil)
		}
	}
	return nil
}
