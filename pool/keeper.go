package pool

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/sluice-proxy/sluice/pool/vault"
)

const (
	// DefaultMaxStatedRetry is the longest wait that an agent is told: some park
	// themselves for as long as they are told, even for days.
	DefaultMaxStatedRetry = 15 * time.Minute
	// DefaultProbeInterval is how often a long exhaustion is tested with a real request.
	DefaultProbeInterval = 15 * time.Minute
	// DefaultCachedCooldowns is how many members' cooldowns are kept in memory.
	DefaultCachedCooldowns = 1 << 16
)

// Options of [NewKeeper]. Store, Vault and Log are required.
type Options struct {
	Store Store
	Vault Vault
	Log   *slog.Logger
	// Now is the wall clock. Default: [time.Now], without its monotonic reading: that
	// one stands still while the host sleeps, and cooldowns do not.
	Now func() time.Time
	// MaxStatedRetry caps the Retry-After of an exhausted pool's answer once it is
	// above a minute. Default: [DefaultMaxStatedRetry].
	MaxStatedRetry time.Duration
	// ProbeInterval is the least time between two requests that try a cooling
	// member. Default: [DefaultProbeInterval]; negative: never.
	ProbeInterval time.Duration
	// MaxHeld is how many requests a pool holds at most. Default: [DefaultMaxHeld].
	MaxHeld int
	// HTTP asks token endpoints. It must not follow redirects: what is sent is a secret.
	// Default: [http.Transport]'s defaults, and no redirects.
	HTTP *http.Client
	// Permit lets certificates be made for hosts that are to be bound, durable before it returns. What it refuses is not bound.
	// It is called while the store waits, and must not ask the keeper anything. Nil: nobody needs to be asked.
	Permit func(hosts []string) error
	// Sources are where secrets may be read from. Nil: nowhere.
	Sources Sources
	// FetchInterval is how often they are read again. Default: [DefaultFetchInterval].
	FetchInterval time.Duration
	// MaxTies bounds what is remembered of what accounts made. Default: [DefaultMaxTies].
	MaxTies int
	// CachedCooldowns bounds the read cache. Default: [DefaultCachedCooldowns].
	CachedCooldowns int64
}

// Keeper leases members to requests and judges their answers. The store is the
// truth: whatever Keeper changes is durable before the method returns. Its
// methods may be called concurrently.
type Keeper struct {
	opts Options
	key  []byte // of the installation, for placeholders
	view view
	// cooldowns is a read cache by member id; a miss asks the store.
	cooldowns *ristretto.Cache[int64, *Cooldown]

	ties    *tieIndex
	unsaved *unsaved
	refresh *refresher
	fetches *fetcher

	mu      sync.Mutex // held while the store is changed
	holders *holders
	waiting signal // raised when a cooldown changes
	events  signal // raised when an event is added
}

// NewKeeper reads the store. Close must be called.
func NewKeeper(ctx context.Context, opts Options) (*Keeper, error) {
	if opts.Now == nil {
		opts.Now = func() time.Time { return time.Now().Round(0) }
	}
	if opts.MaxStatedRetry == 0 {
		opts.MaxStatedRetry = DefaultMaxStatedRetry
	}
	if opts.ProbeInterval == 0 {
		opts.ProbeInterval = DefaultProbeInterval
	}
	if opts.MaxHeld == 0 {
		opts.MaxHeld = DefaultMaxHeld
	}
	if opts.HTTP == nil {
		opts.HTTP = TokenClient(nil)
	}
	if opts.FetchInterval == 0 {
		opts.FetchInterval = DefaultFetchInterval
	}
	if opts.MaxTies == 0 {
		opts.MaxTies = DefaultMaxTies
	}
	if opts.CachedCooldowns == 0 {
		opts.CachedCooldowns = DefaultCachedCooldowns
	}
	cache, err := ristretto.NewCache(&ristretto.Config[int64, *Cooldown]{
		NumCounters: opts.CachedCooldowns * 10,
		MaxCost:     opts.CachedCooldowns,
		BufferItems: 64,
		// Every entry costs one, and nothing but its number counts.
		IgnoreInternalCost: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make the cooldown cache: %w", err)
	}
	k := &Keeper{opts: opts, cooldowns: cache}
	if k.key, err = opts.Store.InstallationKey(ctx); err != nil {
		cache.Close()
		return nil, fmt.Errorf("read the installation's key: %w", err)
	}
	k.view.init()
	k.waiting.init()
	k.events.init()
	k.unsaved = newUnsaved()
	if err := k.reload(ctx); err != nil {
		cache.Close()
		return nil, err
	}
	ties, err := opts.Store.Ties(ctx)
	if err != nil {
		cache.Close()
		return nil, fmt.Errorf("read what accounts made: %w", err)
	}
	k.ties = newTieIndex(opts.MaxTies, ties)
	go k.writeTies()
	k.startSaving()
	k.fetches = newFetcher() // refreshing looks at it
	k.startRefreshing()
	k.startFetching()
	return k, nil
}

// Close writes what is still to be written and ends the cache. The store is the
// caller's to close, afterwards. What is asked of the keeper from then on, by who could not be waited for, is asked of the
// store; but no request may be on its way any more.
func (k *Keeper) Close() {
	k.fetches.close()
	k.refresh.close()
	k.closeUnsaved()
	k.ties.close()
	// Who is putting something into the cache holds the lock, and would wait for ever for what is ended meanwhile.
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cooldowns.Close()
}

// signal wakes all who wait at once: the channel is closed and replaced.
type signal struct{ ch atomic.Pointer[chan struct{}] }

func (s *signal) init() {
	ch := make(chan struct{})
	s.ch.Store(&ch)
}

func (s *signal) wait() <-chan struct{} { return *s.ch.Load() }

func (s *signal) raise() {
	ch := make(chan struct{})
	close(*s.ch.Swap(&ch))
}

// cooldown reads through the cache: a miss asks the store and never means healthy.
func (k *Keeper) cooldown(ctx context.Context, member int64) (*Cooldown, error) {
	if c, ok := k.cooldowns.Get(member); ok {
		return c, nil
	}
	ctx = context.WithoutCancel(ctx) // it is read for all who ask after this one
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cooldownLocked(ctx, member)
}

// cooldownLocked fills the cache. Filling under the lock keeps a stale value from
// overtaking a newer one.
func (k *Keeper) cooldownLocked(ctx context.Context, member int64) (*Cooldown, error) {
	if c, ok := k.cooldowns.Get(member); ok {
		return c, nil
	}
	if c, ok := k.unsaved.cooldowns[member]; ok {
		k.remember(member, &c)
		return &c, nil
	}
	c, err := k.opts.Store.Cooldown(ctx, member)
	if err != nil {
		return nil, fmt.Errorf("read cooldown: %w", err)
	}
	k.remember(member, &c)
	return &c, nil
}

// remember caches what the store holds. An entry that exists is replaced at once;
// a new one is let in by the cache's own goroutine, which is waited for so that
// two values of one member are never under way together.
func (k *Keeper) remember(member int64, c *Cooldown) {
	k.cooldowns.Set(member, c, 1)
	k.cooldowns.Wait()
}

// candidates reads what selection needs of each member. The lock is held.
func (k *Keeper) candidates(ctx context.Context, p *poolView, tried []string) ([]candidate, error) {
	members := make([]candidate, 0, len(p.members))
	for i := range p.members {
		m := &p.members[i]
		c, err := k.cooldownLocked(ctx, m.id)
		if err != nil {
			return nil, err
		}
		cand := candidate{id: m.id, until: c.Until, parked: m.parked.Load(), rejected: c.rejected()}
		for _, t := range tried {
			cand.tried = cand.tried || t == m.name
		}
		members = append(members, cand)
	}
	return members, nil
}

// Vault opens and seals secrets; *vault.Vault is one.
type Vault interface {
	Encrypt(vault.Secret) ([]byte, error)
	Decrypt([]byte) (vault.Secret, error)
}
