package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// DefaultMaxTies is how many things that accounts made are remembered, each pool's newest.
	DefaultMaxTies = 100_000
	// TieAge is for how long they are.
	TieAge = 30 * 24 * time.Hour
	// tieDelay is how long a tie may wait to be written with others: it counts at once,
	// and a daemon that is killed forgets the last ones.
	tieDelay = 250 * time.Millisecond
	// tieRetry is how long after a failure it is tried to write them again.
	tieRetry = 5 * time.Second
	// tieFresh is for how long a tie is not written again though it is seen again.
	tieFresh = 24 * time.Hour
)

// TieStore keeps what members made.
type TieStore interface {
	// Ties lists them, oldest first.
	Ties(ctx context.Context) ([]TieRecord, error)
	// AddTies adds some and then forgets those that were dropped and what was made up to an
	// instant, as a whole.
	AddTies(ctx context.Context, ties, dropped []TieRecord, before time.Time) error
}

// TieRecord says that a member made what a mark stands for.
type TieRecord struct {
	Mark   Mark
	Pool   int64
	Member int64
	Made   time.Time
}

// Tie binds a request to the member whose account made what it names.
type Tie struct {
	Field  string // of the request that names it
	member int64
}

// tieIndex is all ties in memory; what is new in it is written by a goroutine of its own.
type tieIndex struct {
	limit int // of what is remembered

	mu      sync.RWMutex
	makers  map[tieKey]maker
	pools   map[int64]*poolTies
	seq     uint64
	pending []TieRecord
	dropped []TieRecord // that may be written down

	wake chan struct{} // of capacity 1
	once sync.Once
	done chan struct{} // closed by close
	gone chan struct{} // closed when the goroutine has ended
}

type tieKey struct {
	pool int64
	mark Mark
}

type maker struct {
	member int64
	seq    uint64
	made   time.Time
}

// poolTies are a pool's in the order in which they were made; one that was made again is there twice.
type poolTies struct {
	count int
	order []tiePlace
}

type tiePlace struct {
	mark Mark
	seq  uint64
}

func newTieIndex(limit int, records []TieRecord) *tieIndex {
	t := &tieIndex{
		limit:  limit,
		makers: make(map[tieKey]maker, len(records)), pools: make(map[int64]*poolTies),
		wake: make(chan struct{}, 1), done: make(chan struct{}), gone: make(chan struct{}),
	}
	for _, r := range records {
		t.put(r)
	}
	return t
}

// put adds a tie. Beyond the limit, the pool that has the most forgets its oldest: one whose agents make
// much takes nothing from the others. The lock is held.
func (t *tieIndex) put(r TieRecord) {
	key := tieKey{r.Pool, r.Mark}
	p := t.pools[r.Pool]
	if p == nil {
		p = new(poolTies)
		t.pools[r.Pool] = p
	}
	t.seq++
	before, known := t.makers[key]
	switch {
	case !known:
		p.count++
	case before.member != r.Member:
		t.dropped = append(t.dropped, TieRecord{Mark: r.Mark, Pool: r.Pool, Member: before.member})
	}
	t.makers[key] = maker{r.Member, t.seq, r.Made}
	p.order = append(p.order, tiePlace{r.Mark, t.seq})
	if len(p.order) > 2*p.count+64 {
		p.order = slices.DeleteFunc(p.order, func(x tiePlace) bool { return !t.last(r.Pool, x) })
	}
	for len(t.makers) > t.limit {
		t.dropOldest(r.Pool)
	}
}

// last says whether a place is that of a tie as it was made last.
func (t *tieIndex) last(pool int64, x tiePlace) bool {
	return t.makers[tieKey{pool, x.mark}].seq == x.seq
}

// dropOldest drops the oldest tie of the pool that has the most, which is that one unless another has more.
func (t *tieIndex) dropOldest(pool int64) {
	for id, p := range t.pools {
		if p.count > t.pools[pool].count {
			pool = id
		}
	}
	p := t.pools[pool]
	for !t.last(pool, p.order[0]) {
		p.order = p.order[1:]
	}
	key := tieKey{pool, p.order[0].mark}
	t.dropped = append(t.dropped, TieRecord{Mark: key.mark, Pool: pool, Member: t.makers[key].member})
	p.order = p.order[1:]
	delete(t.makers, key)
	if p.count--; p.count == 0 {
		delete(t.pools, pool)
	}
}

// any says whether anything is known of a pool.
func (t *tieIndex) any(pool int64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.pools[pool] != nil
}

// find is the newest maker among the clues; members says who still counts.
func (t *tieIndex) find(pool int64, clues []Clue, now time.Time, member func(int64) bool) (Tie, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var newest maker
	var tie Tie
	for _, c := range clues {
		m, ok := t.makers[tieKey{pool, c.Mark}]
		if ok && m.seq > newest.seq && now.Sub(m.made) < TieAge && member(m.member) {
			newest, tie = m, Tie{Field: c.Field, member: m.member}
		}
	}
	return tie, newest.seq > 0
}

// add notes what a member made.
func (t *tieIndex) add(pool, member int64, clues []Clue, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range clues {
		if m, ok := t.makers[tieKey{pool, c.Mark}]; ok && m.member == member && now.Sub(m.made) < tieFresh {
			continue
		}
		r := TieRecord{Mark: c.Mark, Pool: pool, Member: member, Made: now}
		t.put(r)
		t.pending = append(t.pending, r)
	}
	t.bound()
	if len(t.pending) > 0 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// bound keeps what cannot be written from growing for ever. The lock is held.
func (t *tieIndex) bound() {
	if len(t.pending) > 2*t.limit {
		t.pending = slices.DeleteFunc(t.pending, func(r TieRecord) bool {
			m := t.makers[tieKey{r.Pool, r.Mark}] // at most limit of them are there still
			return m.member != r.Member || !m.made.Equal(r.Made)
		})
	}
	if len(t.dropped) > 2*t.limit { // what is not dropped from the database now is at the next start
		t.dropped = slices.Delete(t.dropped, 0, t.limit)
	}
}

// takePending takes what is to be written: what was made again since it was dropped is not.
func (t *tieIndex) takePending() (made, dropped []TieRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	made, dropped = t.pending, slices.DeleteFunc(t.dropped, func(r TieRecord) bool {
		return t.makers[tieKey{r.Pool, r.Mark}].member == r.Member
	})
	t.pending, t.dropped = nil, nil
	return made, dropped
}

func (t *tieIndex) putBack(made, dropped []TieRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending, t.dropped = append(made, t.pending...), append(dropped, t.dropped...)
	t.bound()
}

// writeTies writes what is new until the keeper is closed, and then the rest.
func (k *Keeper) writeTies() {
	t := k.ties
	defer close(t.gone)
	failed := false
	for open := true; open; {
		select {
		case <-t.wake:
			open = pause(t.done, tieDelay)
		case <-t.done:
			open = false
		}
		made, dropped := t.takePending()
		if len(made)+len(dropped) == 0 {
			continue
		}
		now := k.opts.Now()
		err := k.opts.Store.AddTies(context.Background(), made, dropped, now.Add(-TieAge))
		switch {
		case err == nil:
			failed = false
			continue
		case !failed:
			k.opts.Log.Error("what accounts made is not written down: requests that name it may go to another one after a restart", "error", err)
		}
		failed = true
		t.putBack(made, dropped)
		if open = open && pause(t.done, tieRetry); open {
			select {
			case t.wake <- struct{}{}:
			default:
			}
		}
	}
}

// pause waits, and says whether done is still open.
func pause(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}

func (t *tieIndex) close() {
	t.once.Do(func() { close(t.done) })
	<-t.gone
}

// RequestClues is what looks for ties in a request of a route, in its target at once;
// nil if none can be there: the pool has one member, or none has made anything.
func (k *Keeper) RequestClues(r Route, target string) *Clues {
	p := k.view.pool(r.Pool)
	if p == nil || p.owned == nil || len(p.members) < 2 || !k.ties.any(p.id) {
		return nil
	}
	return p.owned.requestClues(target)
}

// AnswerClues readies c to look in the answer to a request for what the member's account
// has made; false if there is no need. What c took before must not be in use any more.
func (k *Keeper) AnswerClues(r Route, target string, c *Clues) bool {
	p := k.view.pool(r.Pool)
	if p == nil || p.owned == nil || !p.owned.owns(target) {
		return false
	}
	c.begin(p.owned, true)
	return true
}

// Maker is who made what a request names: of several, the one who made the newest.
func (k *Keeper) Maker(r Route, found []Clue) (Tie, bool) {
	p := k.view.pool(r.Pool)
	if p == nil || len(found) == 0 {
		return Tie{}, false
	}
	return k.ties.find(p.id, found, k.opts.Now(), func(id int64) bool { return p.memberIndex(id) >= 0 })
}

// Made notes what an answer to a lease's request handed out.
func (k *Keeper) Made(l Lease, found []Clue) {
	if p := k.current(l); p != nil && len(found) > 0 {
		k.ties.add(p.id, l.member, found, k.opts.Now())
	}
}

// AcquireTied leases the member that a request is tied to, and no other: parked, too,
// for what it made is only there. If it has left its pool the request is as any other.
//
// Errors: [ErrNoPool]; [*ExhaustedError], with Tied set, while the member is out.
func (k *Keeper) AcquireTied(ctx context.Context, r Route, t Tie) (Lease, error) {
	l, err := k.acquireTied(ctx, r, t)
	if err == nil && l.stale {
		var rejected bool
		if l, rejected = k.fresh(ctx, r, l); rejected {
			return k.acquireTied(ctx, r, t) // which says until when it is out
		}
	}
	return l, err
}

func (k *Keeper) acquireTied(ctx context.Context, r Route, t Tie) (Lease, error) {
	p := k.view.pool(r.Pool)
	if p == nil {
		return Lease{}, ErrNoPool
	}
	b, i := p.binding(r.Host, r.Port), p.memberIndex(t.member)
	if b < 0 {
		return Lease{}, ErrNoPool
	}
	if i < 0 {
		return k.Acquire(ctx, r, nil)
	}
	now := k.opts.Now()
	c, err := k.cooldown(ctx, t.member)
	if err != nil {
		return Lease{}, err
	}
	if !c.Out(now) {
		return p.lease(&p.members[i], b, now), nil
	}
	if l, ok, err := k.probeTied(ctx, r, t, now); ok || err != nil {
		return l, err
	}
	e := &ExhaustedError{
		Pool: p.pool.Name, Provider: p.pool.Provider, Members: len(p.members), Soonest: p.members[i].name,
		RecoversAt: c.Until, Reason: c.Reason, Tied: t.Field,
	}
	e.state(c.Until.Sub(now), k.opts.MaxStatedRetry, now)
	return Lease{}, e
}

// probeTied lets a tied request find out whether its member is back, under the rules
// for every probe: nobody is left, that member is the soonest, and it is time for one.
func (k *Keeper) probeTied(ctx context.Context, r Route, t Tie, now time.Time) (l Lease, ok bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.view.pool(r.Pool)
	if p == nil {
		return Lease{}, false, ErrNoPool
	}
	members, err := k.candidates(ctx, p, nil)
	if err != nil {
		return Lease{}, false, err
	}
	b, i := p.binding(r.Host, r.Port), p.memberIndex(t.member)
	if b < 0 || i < 0 || choose(members, p.activeIndex(), now) >= 0 || soonest(members) != i {
		return Lease{}, false, nil
	}
	l, err = k.probeOrExhausted(ctx, p, r, b, members, now)
	if _, out := errors.AsType[*ExhaustedError](err); out {
		return Lease{}, false, nil
	}
	return l, err == nil, err
}
