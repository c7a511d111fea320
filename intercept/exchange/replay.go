package exchange

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// attempts is the part of an exchange that HTTP/1.1 and HTTP/2 share: which
// member is asked, what its answer meant, and which is asked next.
type attempts struct {
	x       *Exchanger
	route   pool.Route
	lease   pool.Lease
	tried   []string
	tie     pool.Tie // to the member that made what the request names; zero: to none
	making  bool     // it may ask somebody else, too: see standIn
	bare    bool     // no member is asked: the request goes out as it came
	tokens  bool     // to a token endpoint
	revokes bool     // to the one beside it, where tokens are given up
	held    bool     // waited for a member already: once is enough
	fresh   bool     // its member was given another access token already: once is enough, too
	judged  bool     // the last answer has put its member out

	stand *pool.ExhaustedError // why another one was asked than the tied member, nil if that was not so

	refused bool      // the last answer asks for another member
	begun   time.Time // when its head came
}

// verdict is what becomes of an answer.
type verdict uint8

const (
	verdictPass      verdict = iota // it goes to the client
	verdictAgain                    // the request is sent again with the new lease
	verdictExhausted                // the client gets the pool's own answer
)

// ask notes what the request asks for.
func (a *attempts) ask(method, target []byte) {
	a.route.Costless = pool.Costless(a.route.Provider, method, target)
	a.route.Aside = pool.Aside(a.route.Provider, target)
	a.route.Standing = pool.Standing(a.route.Provider, method, target)
	a.making = string(method) == http.MethodPost
}

// first leases the first member.
func (a *attempts) first(ctx context.Context) error {
	if a.bare {
		return nil
	}
	var err error
	a.lease, err = a.acquire(ctx)
	return err
}

// acquire leases a member, of a pool that holds requests a little later if it has
// none now. By then those who refused this request are as good as any.
func (a *attempts) acquire(ctx context.Context) (pool.Lease, error) {
	a.stand = nil
	lease, err := a.lookUp(ctx)
	exhausted, ok := errors.AsType[*pool.ExhaustedError](err)
	if !ok {
		return lease, err
	}
	if lease, ok := a.standIn(ctx, exhausted); ok {
		return lease, nil
	}
	if a.held {
		return lease, err
	}
	a.held = true
	if !a.x.opts.Pools.Hold(ctx, a.route, a.tie) {
		return lease, err
	}
	a.tried = a.tried[:0]
	return a.lookUp(ctx)
}

func (a *attempts) lookUp(ctx context.Context) (pool.Lease, error) {
	if a.tie != (pool.Tie{}) {
		return a.x.opts.Ties.AcquireTied(ctx, a.route, a.tie)
	}
	return a.x.opts.Pools.Acquire(ctx, a.route, a.tried)
}

// standIn leases another member for a request whose own is out: what it names may be known there, too. Keys of one organization share what they
// make, and who does not know it says so. Only what is to be made is asked of others, for they have lists of their own.
func (a *attempts) standIn(ctx context.Context, out *pool.ExhaustedError) (pool.Lease, bool) {
	if out.Tied == "" || !a.making {
		return pool.Lease{}, false
	}
	route := a.route
	route.Costless = true // a member that is out is found out about by requests that it can serve
	lease, err := a.x.opts.Pools.Acquire(ctx, route, a.tried)
	if err != nil || slices.Contains(a.tried, lease.Member) {
		return pool.Lease{}, false
	}
	a.stand = out
	return lease, true
}

// strange tells whether a member that stands in for another has turned the request down for what it names, or may have.
func (a *attempts) strange(status int) bool { return a.stand != nil && status >= 400 && status < 500 }

// afterStandIn asks the next one that may stand in. Without one the client hears of the member that it has to wait for.
func (a *attempts) afterStandIn(ctx context.Context, again bool) (verdict, *pool.ExhaustedError) {
	out := a.stand
	if !again {
		return verdictExhausted, out
	}
	a.tried = append(a.tried, a.lease.Member)
	lease, err := a.acquire(ctx)
	if exhausted, ok := errors.AsType[*pool.ExhaustedError](err); ok {
		return verdictExhausted, exhausted
	}
	if err != nil || slices.Contains(a.tried, lease.Member) {
		return verdictExhausted, out
	}
	a.lease, a.fresh = lease, false
	a.x.counts.replays.Add(1)
	return verdictAgain, nil
}

// lookUpAside is for what was turned down without evidence against anybody: there is nothing to wait for, and a
// rotation is not undone for it.
func (a *attempts) lookUpAside(ctx context.Context) (pool.Lease, error) {
	route := a.route
	defer func() { a.route = route }()
	a.route.Aside = true
	return a.lookUp(ctx)
}

// refresh gives the request's member another access token where the one that was sent is not accepted,
// or a key that has replaced it, and says whether it has one: then that answer says nothing of the member.
func (a *attempts) refresh(ctx context.Context, answer pool.Answer) bool {
	if a.fresh || a.bare || !pool.NotAccepted(answer) {
		return false
	}
	a.fresh = true
	lease, ok := a.x.opts.Pools.Refresh(ctx, a.route, a.lease)
	if ok {
		a.lease = lease
	}
	return ok
}

// afterRefresh sends the request again, if that is possible; the next ones are better off
// in any case.
func (a *attempts) afterRefresh(again bool) verdict {
	if !again {
		a.x.counts.notReplayable.Add(1)
		return verdictPass
	}
	a.x.counts.replays.Add(1)
	return verdictAgain
}

// observe has an answer judged and tells whether another member is to be asked: its own is out
// now, or has refused what another one may not refuse. It counts even if the client has hung up
// meanwhile.
func (a *attempts) observe(ctx context.Context, answer pool.Answer) (refused bool) {
	if a.bare {
		return false
	}
	answer.Costless = a.route.Costless
	outcome, err := a.x.opts.Pools.Observe(ctx, a.lease, answer)
	if err != nil {
		a.x.opts.Log.Error("answer not recorded", "pool", a.lease.Pool, "member", a.lease.Member, "err", err)
	}
	a.judged, a.begun = outcome.Refused(), answer.At
	a.refused = a.judged || answer.Status == http.StatusTooManyRequests || answer.Aside && answer.Status == http.StatusUnauthorized
	return a.refused
}

// passRefusal lets the client see that its member was refused.
func (a *attempts) passRefusal() verdict {
	if a.judged {
		a.x.opts.Pools.Told(a.lease.Pool)
	}
	return verdictPass
}

// next leases a member that was not asked yet, for a request that can be sent
// again. Without one the answer at hand is passed on, unless the whole pool is
// known to be out: then its own answer says when it is back. That is not known if nobody was judged.
func (a *attempts) next(ctx context.Context) (verdict, *pool.ExhaustedError) {
	a.tried = append(a.tried, a.lease.Member)
	acquire := a.acquire
	if !a.judged {
		acquire = a.lookUpAside
	}
	lease, err := acquire(ctx)
	if exhausted, ok := errors.AsType[*pool.ExhaustedError](err); ok && a.judged {
		return verdictExhausted, exhausted
	}
	if err != nil || slices.Contains(a.tried, lease.Member) {
		return a.passRefusal(), nil
	}
	a.lease, a.fresh = lease, false
	a.x.counts.replays.Add(1)
	return verdictAgain, nil
}
