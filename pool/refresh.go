package pool

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
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
	Code       string // RFC 6749 section 5.2: "invalid_grant", or a provider's own

	of tokenDigest // of the refresh token
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
	delete(r.landed, name)
}

// shift moves what is waited for along with the wall clock.
func (r *refresher) shift(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	shiftEach(r.after, by)
	shiftEach(r.landed, by)
}

// refreshAhead refreshes accounts before their access tokens end, until ctx does.
func (k *Keeper) refreshAhead(ctx context.Context) {
	defer close(k.refresh.done)
	for ctx.Err() == nil {
		changed := k.view.tends.wait()
		name, at := k.nextRefresh()
		if !k.fellDue(ctx, name, at, changed, nil) {
			continue
		}
		// Failures are noted where they happen, and retried at an instant of their own.
		ended, _ := k.view.credential(name)
		_ = k.refreshNow(ctx, name, "ahead of its end", false, func() bool {
			c, _ := k.view.credential(name)
			return c.ExpiresAt.Equal(ended.ExpiresAt)
		})
	}
}

// nextRefresh is the account that is to be refreshed first, and when; "" if none is.
func (k *Keeper) nextRefresh() (name string, at time.Time) {
	v, now := &k.view, k.opts.Now()
	for _, c := range v.tended.all() {
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
	return ahead + someOf(name, ahead)
}

// Refresh gives the member of a lease another access token, because the one that it
// was sent with was not accepted, and leases it again. It says no if there is none to be
// had: an account that cannot be refreshed now, or a static key that has not been replaced
// since.
func (k *Keeper) Refresh(ctx context.Context, r Route, l Lease) (Lease, bool) {
	next, ok := k.again(r, l)
	if !ok {
		return Lease{}, false
	}
	if sameFields(next.Inject, l.Inject) {
		if !l.Refreshable {
			return Lease{}, false
		}
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
	p := k.view.pool(r.Pool)
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
		r.wait[name] = wait
		if e, is := errors.AsType[*endpointError](f.err); is {
			wait = max(wait, min(e.wait, maxUnhinted))
		}
		r.after[name] = k.opts.Now().Add(wait)
	}
	delete(r.flights, name)
	r.landed[name] = k.opts.Now()
	r.mu.Unlock()
	switch {
	case isRejected:
		err := k.rejected(ctx, rejected, refused, wait)
		if errors.Is(err, errReplaced) { // by whoever signed in again meanwhile
			r.forget(name)
			f.err = nil
			break
		}
		k.opts.Log.Error("account not refreshed", "credential", name, "error", rejected)
		if err != nil {
			k.opts.Log.Error("not recorded that an account is not refreshed", "credential", name, "error", err)
		}
	case f.err != nil:
		k.opts.Log.Warn("account not refreshed", "credential", name, "again_in", wait, "error", f.err)
	}
	close(f.done)
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
