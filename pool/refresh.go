package pool

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/sluice-proxy/sluice/pool/vault"
)

const (
	// refreshAhead is how long before its end an access token is replaced, at most: a
	// tenth of what is left of a short-lived one. Each account adds a little of its own.
	refreshAhead = 5 * time.Minute
	// refreshTimeout is how long a token endpoint may take.
	refreshTimeout = 30 * time.Second
	// minRefreshRetry and maxRefreshRetry bound how long after a failure that says
	// nothing of the account the endpoint is left alone.
	minRefreshRetry = 5 * time.Second
	maxRefreshRetry = 5 * time.Minute
	// storeRetry is how often it is tried to store tokens on a disk that refuses.
	storeRetry = 2 * time.Second
)

// Why a refresh did not happen.
var (
	errNotRefreshable = errors.New("the account has no token endpoint")
	errRefreshSoon    = errors.New("the token endpoint failed a moment ago")
	errReplaced       = errors.New("the account was given other tokens meanwhile")
)

// refresher replaces the access tokens of OAuth accounts, one request to the token
// endpoint an account at a time. A refresh goes like this:
//
//  1. the stored refresh token is redeemed;
//  2. the tokens that come back are sealed and committed to the store, in one
//     transaction with the event, in the place of the old ones;
//  3. the view is built anew, and requests are sent with the new access token.
//
// Killed before 1 is answered, or after 2, nothing is lost: the store holds a refresh
// token that is good. Between the two the endpoint may have spent the stored one while
// its successor died with the process; no client can prevent that. The stored one is
// tried again then, and those endpoints that allow for it (RFC 9700 section 4.14.2
// leaves them a grace period) accept it.
type refresher struct {
	mu      sync.Mutex
	flights map[string]*flight   // by credential
	after   map[string]time.Time // by credential: not before
	wait    map[string]time.Duration
	landed  map[string]time.Time // by credential: when the last one ended
	closed  bool
	running sync.WaitGroup
	stop    context.CancelFunc
	done    chan struct{} // closed when the loop has ended
}

// flight is a refresh that is under way; err is to be read once done is closed.
type flight struct {
	done chan struct{}
	err  error
}

// RejectedError says that a token endpoint does not accept a refresh token.
type RejectedError struct {
	Credential string
	Code       string // RFC 6749 section 5.2: "invalid_grant"
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("the refresh token of %q is not accepted (%s): sign in again and run 'sluice cred update %s'", e.Credential, e.Code, e.Credential)
}

// TokenClient asks token endpoints over verified TLS; nil roots are the system's.
func TokenClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
			DisableKeepAlives: true, // once an hour
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the token endpoint redirects: a refresh token is not sent elsewhere")
		},
		Timeout: refreshTimeout,
	}
}

func (k *Keeper) startRefreshing() {
	ctx, stop := context.WithCancel(context.Background())
	k.refresh = &refresher{
		flights: make(map[string]*flight), after: make(map[string]time.Time), wait: make(map[string]time.Duration),
		landed: make(map[string]time.Time),
		stop:   stop, done: make(chan struct{}),
	}
	go k.refreshAhead(ctx)
}

// close lets refreshes that are under way end: a token that was spent for one that is
// thrown away is an account lost.
func (r *refresher) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	<-r.done
	r.running.Wait()
}

// forget lets an account be refreshed at once: it is another one.
func (r *refresher) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.after, name)
	delete(r.wait, name)
}

// refreshAhead refreshes accounts before their access tokens end, until ctx does.
func (k *Keeper) refreshAhead(ctx context.Context) {
	defer close(k.refresh.done)
	for {
		changed := k.view.Load().changed.wait()
		name, at := k.nextRefresh()
		timer := time.NewTimer(max(0, at.Sub(k.opts.Now())))
		due := timer.C
		if name == "" {
			due = nil
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
			timer.Stop()
			continue
		case <-due:
		}
		// Failures are noted where they happen, and retried at an instant of their own.
		ends := k.view.Load().credentials[name].ExpiresAt
		_ = k.refreshNow(ctx, name, "ahead of its end", false, func() bool {
			return k.view.Load().credentials[name].ExpiresAt.Equal(ends)
		})
	}
}

// nextRefresh is the account that is to be refreshed first, and when; "" if none is.
func (k *Keeper) nextRefresh() (name string, at time.Time) {
	v, now := k.view.Load(), k.opts.Now()
	for _, c := range v.credentials {
		if c.Type != OAuth || c.ExpiresAt.IsZero() || v.tokenURL(c) == "" {
			continue
		}
		due := c.ExpiresAt.Add(-aheadOf(c.Name, c.ExpiresAt.Sub(now)))
		if !c.RefreshFailed.IsZero() {
			due = time.Time{} // it is a matter of when it may be tried again
		}
		k.refresh.mu.Lock()
		for _, not := range []time.Time{k.refresh.after[c.Name], k.refresh.landed[c.Name].Add(time.Second)} {
			if not.After(due) {
				due = not
			}
		}
		k.refresh.mu.Unlock()
		if name == "" || due.Before(at) {
			name, at = c.Name, due
		}
	}
	return name, at
}

// aheadOf is how long before its end a token with so much left is replaced: spread by
// up to a fifth, so that accounts which were added together do not come together.
func aheadOf(name string, left time.Duration) time.Duration {
	ahead := min(refreshAhead, max(left/10, 0))
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return ahead + ahead/5*time.Duration(h.Sum32()%1000)/1000
}

// Refresh gives the member of a lease another access token, because the one that it
// was sent with was not accepted, and leases it again. It says no if there is none to be
// had: a static key, or an account that cannot be refreshed now.
func (k *Keeper) Refresh(ctx context.Context, r Route, l Lease) (Lease, bool) {
	if !l.Refreshable {
		return Lease{}, false
	}
	next, ok := k.again(r, l)
	if !ok {
		return Lease{}, false
	}
	if sameFields(next.Inject, l.Inject) {
		if err := k.refreshNow(ctx, l.Member, "its access token was not accepted", true, k.still(r, l)); err != nil {
			return Lease{}, false
		}
		if next, ok = k.again(r, l); !ok {
			return Lease{}, false
		}
	}
	return next, true
}

// still says whether a lease carries what its member has.
func (k *Keeper) still(r Route, l Lease) func() bool {
	return func() bool {
		next, ok := k.again(r, l)
		return ok && sameFields(next.Inject, l.Inject)
	}
}

// again leases the same member with what it has now.
func (k *Keeper) again(r Route, l Lease) (Lease, bool) {
	p := k.view.Load().pools[r.Pool]
	if p == nil {
		return Lease{}, false
	}
	b, i := p.binding(r.Host, r.Port), p.memberIndex(l.member)
	if b < 0 || i < 0 {
		return Lease{}, false
	}
	next := p.lease(&p.members[i], b, k.opts.Now())
	next.Probe = l.Probe
	return next, true
}

func sameFields(a, b []Field) bool {
	return slices.EqualFunc(a, b, func(x, y Field) bool {
		return x.Name == y.Name && subtle.ConstantTimeCompare(x.Value, y.Value) == 1
	})
}

// refreshNow refreshes an account, or waits for the refresh that is under way. refused
// says that its access token was not accepted, needed whether there is still a need.
func (k *Keeper) refreshNow(ctx context.Context, name, why string, refused bool, needed func() bool) error {
	r := k.refresh
	r.mu.Lock()
	f := r.flights[name]
	switch {
	case f != nil:
	case r.closed:
		r.mu.Unlock()
		return context.Canceled
	case k.opts.Now().Before(r.after[name]):
		r.mu.Unlock()
		return errRefreshSoon
	default:
		f = &flight{done: make(chan struct{})}
		r.flights[name] = f
		r.running.Go(func() { k.fly(f, name, why, refused, needed) })
	}
	r.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fly makes one refresh and notes what came of it.
func (k *Keeper) fly(f *flight, name, why string, refused bool, needed func() bool) {
	ctx := context.Background() // whoever asked may go, the token is spent all the same
	if needed() {               // one that landed a moment ago may have done it
		f.err = k.redeem(ctx, name, why)
	}
	rejected, isRejected := errors.AsType[*RejectedError](f.err)
	var wait time.Duration
	r := k.refresh
	r.mu.Lock()
	switch {
	case f.err == nil || errors.Is(f.err, errReplaced):
		delete(r.wait, name)
		delete(r.after, name)
		f.err = nil
	case isRejected:
		// While it cools it need not be asked; shortly before it would be back it is.
		wait = min(max(authCooldown, 2*r.wait[name]), maxUnhinted)
		r.wait[name], r.after[name] = wait, k.opts.Now().Add(wait-MinCooldown)
	default:
		wait = min(max(minRefreshRetry, 2*r.wait[name]), maxRefreshRetry)
		r.wait[name], r.after[name] = wait, k.opts.Now().Add(wait)
	}
	delete(r.flights, name)
	r.landed[name] = k.opts.Now()
	r.mu.Unlock()
	switch {
	case isRejected:
		k.opts.Log.Error("account not refreshed", "credential", name, "error", rejected)
		if err := k.rejected(ctx, rejected, refused, wait); err != nil {
			k.opts.Log.Error("not recorded that an account is not refreshed", "credential", name, "error", err)
		}
	case f.err != nil:
		k.opts.Log.Warn("account not refreshed", "credential", name, "again_in", wait, "error", f.err)
	}
	close(f.done)
}

// redeem asks the token endpoint and stores what it gives.
func (k *Keeper) redeem(ctx context.Context, name, why string) error {
	record, m, err := k.account(ctx, name)
	if err != nil {
		return err
	}
	c := record.Credential
	endpoint := k.view.Load().tokenURL(c)
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
	rctx, cancel := context.WithTimeout(context.WithValue(ctx, oauth2.HTTPClient, k.opts.HTTP), refreshTimeout)
	defer cancel()
	token, err := cfg.TokenSource(rctx, &oauth2.Token{RefreshToken: string(m.Refresh)}).Token()
	if err != nil {
		return explainRefusal(name, err)
	}
	tokens := &OAuthTokens{
		AccessToken: vault.NewSecret([]byte(token.AccessToken)), RefreshToken: vault.NewSecret([]byte(token.RefreshToken)), ExpiresAt: token.Expiry,
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

// explainRefusal leaves out of the library's error what the endpoint's body said: it
// may repeat a token.
func explainRefusal(name string, err error) error {
	said, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return fmt.Errorf("ask the token endpoint: %w", err)
	}
	if said.ErrorCode == "invalid_grant" || said.ErrorCode == "invalid_token" {
		return &RejectedError{Credential: name, Code: said.ErrorCode}
	}
	status := 0
	if said.Response != nil {
		status = said.Response.StatusCode
	}
	return fmt.Errorf("the token endpoint answered %d %q", status, said.ErrorCode)
}

// account reads what is stored of a credential.
func (k *Keeper) account(ctx context.Context, name string) (CredentialRecord, *material, error) {
	cfg, err := k.opts.Store.Config(ctx)
	if err != nil {
		return CredentialRecord{}, nil, err
	}
	i := slices.IndexFunc(cfg.Credentials, func(r CredentialRecord) bool { return r.Credential.Name == name })
	if i < 0 {
		return CredentialRecord{}, nil, errReplaced
	}
	m, err := k.open(&cfg.Credentials[i])
	return cfg.Credentials[i], m, err
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
	if err := k.opts.Store.UpdateCredential(context.WithValue(ctx, noteKey{}, e), r); err != nil {
		return fmt.Errorf("store the new tokens: %w", err)
	}
	k.events.raise()
	if err := k.reload(ctx); err != nil {
		return err
	}
	return k.revive(ctx, r.Credential)
}

// revive ends a cooldown whose reason was that the credential was not accepted: it is
// another one now. The lock is held.
func (k *Keeper) revive(ctx context.Context, c Credential) error {
	p := k.view.Load().pools[c.Pool]
	if p == nil {
		return nil
	}
	for i := range p.members {
		if p.members[i].name != c.Name {
			continue
		}
		cool, err := k.cooldownLocked(ctx, p.members[i].id)
		if err != nil || !cool.rejected() {
			return err
		}
		change := Change{Pool: p.id, Cooldowns: map[int64]Cooldown{p.members[i].id: {}}, At: k.opts.Now()}
		if p.state.Load() == StateExhausted {
			change.To, change.EdgeEvent = StateHealthy, recoveredEvent(p, c.Name)
		}
		return k.apply(ctx, p, change)
	}
	return nil
}

// rejected cools the member whose account cannot be refreshed, if it is of no use any
// more, and says so once.
func (k *Keeper) rejected(ctx context.Context, e *RejectedError, refused bool, wait time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, _, err := k.account(ctx, e.Credential)
	if err != nil {
		return err
	}
	now := k.opts.Now()
	if refused && now.Before(r.Credential.ExpiresAt) {
		r.Credential.ExpiresAt = now // whatever was said of it
		if err := k.opts.Store.UpdateCredential(ctx, r); err != nil {
			return err
		}
	}
	if r.Credential.RefreshFailed.IsZero() {
		r.Credential.RefreshFailed = now
		note := Event{Kind: EventRefreshFailed, Pool: r.Credential.Pool, Member: e.Credential, Reason: e.Code, Detail: e.Error(), Time: now}
		if err := k.opts.Store.UpdateCredential(context.WithValue(ctx, noteKey{}, note), r); err != nil {
			return err
		}
		k.events.raise()
		if err := k.reload(ctx); err != nil {
			return err
		}
	}
	p := k.view.Load().pools[r.Credential.Pool]
	if p == nil || now.Before(r.Credential.ExpiresAt) {
		return nil // the token at hand is good for a while
	}
	for i := range p.members {
		if p.members[i].name == e.Credential {
			return k.cool(ctx, p, i, Verdict{Outcome: OutcomeAuthFailed, Rejected: e.Code, wait: wait}, false)
		}
	}
	return nil
}

// fresh replaces a lease whose access token has ended by one with a new one. Where there
// is none to be had for now, the old one is tried: clocks differ.
func (k *Keeper) fresh(ctx context.Context, r Route, l Lease) (_ Lease, rejected bool) {
	err := k.refreshNow(ctx, l.Member, "its access token had ended", false, k.still(r, l))
	if _, rejected = errors.AsType[*RejectedError](err); rejected || err != nil {
		return l, rejected
	}
	if next, ok := k.again(r, l); ok {
		return next, false
	}
	return l, false
}
