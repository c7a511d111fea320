package pool

import "time"

// EventKind says what happened.
type EventKind string

// The kinds of events. Scripts rely on these words.
const (
	EventFailover       EventKind = "cred_failover"
	EventExhausted      EventKind = "pool_exhausted"
	EventRecovered      EventKind = "pool_recovered"
	EventAuthReset      EventKind = "auth_reset"
	EventAuthResetFail  EventKind = "auth_reset_failed"
	EventRefresh        EventKind = "cred_refresh"
	EventRefreshFailed  EventKind = "cred_refresh_failed"
	EventFetched        EventKind = "cred_fetched"
	EventFetchFailed    EventKind = "cred_fetch_failed"
	EventTargetAttached EventKind = "target_attached"
	EventTargetDetached EventKind = "target_detached"
	EventDenied         EventKind = "denied"
	EventEchoed         EventKind = "cred_echoed"
)

// The kinds of events of what people ask for. They are there for changes that
// were made, with the actor; what was refused changed nothing and is in the
// daemon's log.
const (
	EventPoolCreated    EventKind = "pool_created"
	EventPoolRemoved    EventKind = "pool_removed"
	EventPoolRotated    EventKind = "pool_rotated"
	EventPoolCleared    EventKind = "pool_cleared"
	EventMemberAdded    EventKind = "member_added"
	EventMemberRemoved  EventKind = "member_removed"
	EventResetTargetSet EventKind = "auth_reset_target_set"
	EventResetAsked     EventKind = "auth_reset_requested"
	EventCredAdded      EventKind = "cred_added"
	EventCredUpdated    EventKind = "cred_updated"
	EventCredRemoved    EventKind = "cred_removed"
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
