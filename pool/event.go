package pool

import "time"

// EventKind says what happened.
type EventKind string

// The kinds of events. Scripts rely on these words.
const (
	// EventFailover: the active member changed because of an answer. member was refused, to is asked from now on.
	EventFailover EventKind = "cred_failover"
	// EventExhausted: the last member went out; until is when the first is expected back.
	EventExhausted EventKind = "pool_exhausted"
	// EventRecovered: a member is back after all were out; since is when that began.
	EventRecovered EventKind = "pool_recovered"
	// EventAuthReset: the agent in target was reset, and what it had latched is gone.
	EventAuthReset EventKind = "auth_reset"
	// EventAuthResetFail: it was not; reason says why.
	EventAuthResetFail EventKind = "auth_reset_failed"
	// EventRefresh: an account's tokens were replaced.
	EventRefresh EventKind = "cred_refresh"
	// EventRefreshFailed: the account's provider refuses to; a person has to sign in again.
	EventRefreshFailed EventKind = "cred_refresh_failed"
	// EventFetched: what a source has of a credential is not what was read last, and is used from now on.
	EventFetched EventKind = "cred_fetched"
	// EventFetchFailed: the source of a credential could not be read, twice in a row; what was read last is used.
	EventFetchFailed EventKind = "cred_fetch_failed"
	// EventTargetAttached: what target names is intercepted from now on.
	EventTargetAttached EventKind = "target_attached"
	// EventTargetDetached: it no longer is.
	EventTargetDetached EventKind = "target_detached"
	// EventDenied: a request was refused because the names in it disagree, or somebody was not let in; reason says which.
	EventDenied EventKind = "denied"
	// EventEchoed: an upstream repeated a member's secret, and the agent got the placeholder; at most once an hour.
	EventEchoed EventKind = "cred_echoed"
)

// The kinds of events of what people ask for. They are there for changes that
// were made, with the actor; what was refused changed nothing and is in the
// daemon's log.
const (
	// EventPoolCreated: a pool was made.
	EventPoolCreated EventKind = "pool_created"
	// EventPoolRemoved: a pool was removed; its credentials are still there.
	EventPoolRemoved EventKind = "pool_removed"
	// EventPoolRotated: somebody moved the active member on by hand.
	EventPoolRotated EventKind = "pool_rotated"
	// EventPoolCleared: somebody lifted cooldowns: of member, or of all.
	EventPoolCleared EventKind = "pool_cleared"
	// EventMemberAdded: a credential joined the pool, as its last.
	EventMemberAdded EventKind = "member_added"
	// EventMemberRemoved: a credential left the pool.
	EventMemberRemoved EventKind = "member_removed"
	// EventResetTargetSet: the pool's auth reset target was set; empty if it was cleared.
	EventResetTargetSet EventKind = "auth_reset_target_set"
	// EventResetAsked: somebody asked for a reset by hand.
	EventResetAsked EventKind = "auth_reset_requested"
	// EventCredAdded: a credential was stored.
	EventCredAdded EventKind = "cred_added"
	// EventCredUpdated: a credential's secret, or what else there is of it, was replaced; detail names what.
	EventCredUpdated EventKind = "cred_updated"
	// EventCredRemoved: a credential and its secret were removed.
	EventCredRemoved EventKind = "cred_removed"
)

// Event is a row of the log. Seq rises by one an event and is never used again.
// Detail is prose for people; what a notice says is in the fields of its own.
type Event struct {
	Seq    int64
	Time   time.Time
	Kind   EventKind
	Pool   string
	Member string
	Target string
	Reason string
	Detail string
	// To is the member that is active from now on (failover).
	To string
	// Until is when Member is expected back (failover, exhausted); zero if not known.
	Until time.Time
	// Since is when what ends with this event began (recovered); zero if not known.
	Since time.Time
	// Actor is who asked for it, as the channel knows them; "" if nobody did.
	Actor string
	// Members is how many members the pool has (exhausted).
	Members int
}
