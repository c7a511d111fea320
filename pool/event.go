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
	EventTargetAttached EventKind = "target_attached"
	EventTargetDetached EventKind = "target_detached"
	EventDenied         EventKind = "denied"
)

// Event is a row of the log. Seq rises by one an event and is never used again.
type Event struct {
	Seq    int64
	Time   time.Time
	Kind   EventKind
	Pool   string
	Member string
	Target string
	Reason string
	Detail string
}
