package pool

import (
	"context"
	"hash/fnv"
	"sync"
	"time"
)

const (
	// DefaultFetchInterval is how often secrets are read again from their sources.
	DefaultFetchInterval = 15 * time.Minute
	// minFetchRetry is how long after a failure a source is asked again: doubled each
	// time, up to the interval.
	minFetchRetry = 30 * time.Second
	// refusedFetch is how often the source of a secret is read that the upstream refuses: who
	// puts a good one there need not do more.
	refusedFetch = time.Minute
	// hasteFetch is the least time between two readings because a secret was refused.
	hasteFetch = 10 * time.Second
	// maxFetches is how many sources are read at a time.
	maxFetches = 4
)

// fetcher reads secrets again from where others keep them: when the daemon starts, from
// time to time, and when an upstream refuses one. No request waits for it: members go on
// with what was read last, and a source that is away takes none of them out.
type fetcher struct {
	mu      sync.Mutex
	due     map[string]time.Time // by credential; a missing one is due now
	landed  map[string]time.Time // by credential: when it was read last
	failed  map[string]int       // by credential: how often in a row it could not be read
	flying  map[string]bool
	hurried signal
	running sync.WaitGroup
	stop    context.CancelFunc
	done    chan struct{} // closed when the loop has ended
}

func newFetcher() *fetcher {
	f := &fetcher{
		due: make(map[string]time.Time), landed: make(map[string]time.Time), failed: make(map[string]int), flying: make(map[string]bool),
		done: make(chan struct{}),
	}
	f.hurried.init()
	return f
}

func (k *Keeper) startFetching() {
	ctx, stop := context.WithCancel(context.Background())
	k.fetches.stop = stop
	if k.opts.Sources == nil {
		close(k.fetches.done)
		return
	}
	go k.fetchAgain(ctx)
}

// close breaks off what is being read: it is read again at the next start.
func (f *fetcher) close() {
	f.stop()
	<-f.done
	f.running.Wait()
}

// read notes that a source was read because somebody asked for it; forget that it need
// not be any more.
func (f *fetcher) read(name string, now time.Time, interval time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.failed, name)
	f.landed[name], f.due[name] = now, now.Add(spread(name, interval))
}

func (f *fetcher) forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.failed, name)
	delete(f.landed, name)
	delete(f.due, name)
}

// shift moves what is waited for along with the wall clock.
func (f *fetcher) shift(by time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	shiftEach(f.due, by)
	shiftEach(f.landed, by)
}

func shiftEach(instants map[string]time.Time, by time.Duration) {
	for name, at := range instants {
		instants[name] = at.Add(by)
	}
}

// hasten has a credential's source read soon, because an upstream refused its secret.
func (k *Keeper) hasten(name string) {
	if c, _ := k.view.credential(name); c.Source == "" {
		return
	}
	f := k.fetches
	f.mu.Lock()
	if soon := f.landed[name].Add(hasteFetch); f.due[name].After(soon) {
		f.due[name] = soon
	}
	f.mu.Unlock()
	f.hurried.raise()
}

// fetchAgain reads sources when they are due, until ctx ends.
func (k *Keeper) fetchAgain(ctx context.Context) {
	f := k.fetches
	defer close(f.done)
	slots := make(chan struct{}, maxFetches)
	for ctx.Err() == nil {
		changed, hurried := k.view.tends.wait(), f.hurried.wait()
		name, at := k.nextFetch()
		if !k.fellDue(ctx, name, at, changed, hurried) {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		f.mu.Lock()
		f.flying[name] = true
		f.mu.Unlock()
		f.running.Go(func() {
			k.fetchNow(ctx, name)
			<-slots
			f.hurried.raise()
		})
	}
}

// nextFetch is the credential whose source is to be read first, and when; "" if none is.
func (k *Keeper) nextFetch() (name string, at time.Time) {
	f := k.fetches
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range k.view.tended.all() {
		if c.Source == "" || f.flying[c.Name] {
			continue
		}
		if due := f.due[c.Name]; name == "" || due.Before(at) || due.Equal(at) && c.Name < name {
			name, at = c.Name, due
		}
	}
	return name, at
}

// fetchNow reads a credential's source and notes what came of it.
func (k *Keeper) fetchNow(ctx context.Context, name string) {
	c, _ := k.view.credential(name)
	got, err := k.fetch(ctx, c.Source, c.Type)
	f, now := k.fetches, k.opts.Now()
	f.mu.Lock()
	delete(f.flying, name)
	f.landed[name] = now
	if err == nil {
		delete(f.failed, name)
		f.due[name] = now.Add(spread(name, k.opts.FetchInterval))
	} else {
		f.failed[name]++
		f.due[name] = now.Add(min(minFetchRetry<<min(f.failed[name]-1, 16), k.opts.FetchInterval))
	}
	// A source that restarts is no news.
	told := f.failed[name] > 1
	f.mu.Unlock()
	if ctx.Err() != nil || c.Source == "" { // broken off, or removed meanwhile
		return
	}
	if err != nil {
		k.opts.Log.Warn("secret not read again", "credential", name, "error", err)
	}
	if err := k.keepFetched(context.WithoutCancel(ctx), name, c.Source, got, err, told); err != nil {
		k.opts.Log.Error("not stored what a source holds", "credential", name, "error", err)
	}
	if err == nil && k.isRefused(ctx, c) {
		f.mu.Lock()
		f.due[name] = now.Add(min(refusedFetch, k.opts.FetchInterval))
		f.mu.Unlock()
	}
}

// isRefused says whether a member is out because its credential is not accepted.
func (k *Keeper) isRefused(ctx context.Context, c Credential) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.view.pool(c.Pool)
	if p == nil {
		return false
	}
	for i := range p.members {
		if p.members[i].name == c.Name {
			cool, err := k.cooldownLocked(ctx, p.members[i].id)
			return err == nil && cool.Out(k.opts.Now()) && cool.rejected()
		}
	}
	return false
}

// fellDue waits for the instant at which a credential is due; of "" there is none. It says
// no if one of the channels is closed before that, or ctx ends.
func (k *Keeper) fellDue(ctx context.Context, name string, at time.Time, changed, hurried <-chan struct{}) bool {
	timer := time.NewTimer(max(0, at.Sub(k.opts.Now())))
	defer timer.Stop()
	due := timer.C
	if name == "" {
		due = nil
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-hurried:
	case <-due:
		return true
	}
	return false
}

// spread is the interval, shortened by up to a fifth, so that what was added together is
// not asked for together.
func spread(name string, interval time.Duration) time.Duration {
	return interval - someOf(name, interval)
}

// someOf is up to a fifth of a duration, for each name another part.
func someOf(name string, d time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return d / 5 * time.Duration(h.Sum32()%1000) / 1000
}
