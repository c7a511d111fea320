package pool

import (
	"context"
	"time"
)

// Store is what a keeper needs of its database. It is in parts because several
// kinds of rows are kept; pool/store implements all of them on one file. Errors
// that a person caused are *[Error].
type Store interface {
	ConfigStore
	PoolStore
	CredentialStore
	StateStore
	TieStore
	ClockStore
	ResetStore
}

// ConfigStore reads what a keeper keeps in memory.
type ConfigStore interface {
	Config(ctx context.Context) (Config, error)
	// ConfigOf reads one pool, if there is one of the name, with its members' credentials, and these credentials, those that
	// there are. It is not the slower for how many others there are.
	ConfigOf(ctx context.Context, pool string, credentials []string) (Config, error)
	// InstallationKey is random, made once, and the same for ever.
	InstallationKey(ctx context.Context) ([]byte, error)
}

// PoolStore changes pools. A credential is in at most one pool, and no pool is named as a credential is. ready, if it is not
// nil, is called last before a change is durable, and an error of it undoes the change.
type PoolStore interface {
	CreatePool(ctx context.Context, p Pool, at time.Time, ready func() error) error
	RemovePool(ctx context.Context, name string) error
	AddMember(ctx context.Context, pool, credential string, ready func() error) error
	// RemoveMember makes what follows from that durable with it.
	RemoveMember(ctx context.Context, pool, credential string, then Change) error
	SetAuthResetTarget(ctx context.Context, pool, target string) error
}

// CredentialStore changes credentials.
type CredentialStore interface {
	// Credential reads one; the error is [NoCredential]'s if there is none of the name.
	Credential(ctx context.Context, name string) (CredentialRecord, error)
	AddCredential(ctx context.Context, r CredentialRecord) error
	// UpdateCredential makes what follows from that durable with it. ready is that of [PoolStore].
	UpdateCredential(ctx context.Context, r CredentialRecord, then Change, ready func() error) error
	RemoveCredential(ctx context.Context, name string) error
}

// StateStore changes what moves with every answer.
type StateStore interface {
	Cooldown(ctx context.Context, member int64) (Cooldown, error)
	// Apply makes all of a change durable, or nothing of it.
	Apply(ctx context.Context, c Change) error
	EventsAfter(ctx context.Context, after int64, limit int) ([]Event, error)
	LastEvents(ctx context.Context, limit int) ([]Event, error)
}

// ClockStore keeps instants right when the wall clock is set.
type ClockStore interface {
	// ClockAnchor is what the last ShiftTimes was given; nil before the first.
	ClockAnchor(ctx context.Context) ([]byte, error)
	// ShiftTimes moves every instant that something waits for, and remembers the
	// anchor, as a whole.
	ShiftTimes(ctx context.Context, by time.Duration, anchor []byte) error
}

// Config is pools and credentials as stored.
type Config struct {
	Pools       []PoolRecord // oldest first
	Credentials []CredentialRecord
}

// PoolRecord is a pool as stored.
type PoolRecord struct {
	ID      int64
	Pool    Pool
	Members []MemberRecord // in their order
	Active  int64          // id of a member; 0: the first
	State   State          // exhausted or not: the last edge that was announced
	Since   time.Time      // of that edge; zero if there was none
	Told    bool           // an agent was told that it is exhausted, and not reset since
}

// MemberRecord is a credential's place in a pool. A credential that leaves and
// comes back has another ID, and so inherits nothing.
type MemberRecord struct {
	ID         int64
	Credential string
	Parked     bool
}

// CredentialRecord is a credential as stored: Sealed is encrypted.
type CredentialRecord struct {
	Credential Credential
	Sealed     []byte
}

// Change is one step of a pool's state, made durable as a whole.
type Change struct {
	Pool      int64
	Cooldowns map[int64]Cooldown // by member; a zero one is lifted
	Parked    map[int64]bool     // by member
	Active    int64              // id of a member; 0: unchanged
	Events    []Event
	// To is the state whose edge this change crosses, or "". The edge has one
	// author: EdgeEvent is added only if the stored state was on the other side.
	To        State
	EdgeEvent Event
	At        time.Time
}
