package pool

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
)

// table is a map that is read without a lock while one goroutine changes it.
type table[K comparable, V any] struct{ m sync.Map }

func (t *table[K, V]) get(key K) (value V, there bool) {
	found, there := t.m.Load(key)
	if there {
		value = found.(V)
	}
	return value, there
}

func (t *table[K, V]) set(key K, value V) { t.m.Store(key, value) }

func (t *table[K, V]) remove(key K) { t.m.Delete(key) }

// all are the entries, in no order.
func (t *table[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		t.m.Range(func(key, value any) bool { return yield(key.(K), value.(V)) })
	}
}

// sharing is which pools have something in common: a host, say. Only first and keys may be called without the keeper's lock.
type sharing[K comparable] struct{ t table[K, *sharers] }

// sharers are the pools that share one thing. There may be as many of one host as there are tenants.
type sharers struct {
	first atomic.Pointer[poolView]
	pools []*poolView // oldest first; guarded by the keeper's lock
}

// first is the oldest of the pools, or nil.
func (s *sharing[K]) first(key K) *poolView {
	if found, there := s.t.get(key); there {
		return found.first.Load()
	}
	return nil
}

// keys are what there is a pool for, in no order.
func (s *sharing[K]) keys() iter.Seq[K] {
	return func(yield func(K) bool) {
		for key := range s.t.all() {
			if !yield(key) {
				return
			}
		}
	}
}

// put adds a pool to what it shares, in the place of the one with its id if there is one. begun says that something of it was
// nobody's before.
func (s *sharing[K]) put(p *poolView, keys []K) (begun bool) {
	for _, key := range keys {
		found, there := s.t.get(key)
		if !there {
			found = new(sharers)
		}
		if i, same := found.find(p); same {
			found.pools[i] = p
		} else {
			found.pools = slices.Insert(found.pools, i, p)
		}
		found.first.Store(found.pools[0])
		if !there {
			s.t.set(key, found)
			begun = true
		}
	}
	return begun
}

// drop takes a pool out, except for where another view of it has been put in its place. ended says that something is nobody's
// any more.
func (s *sharing[K]) drop(p *poolView, keys []K) (ended bool) {
	for _, key := range keys {
		found, there := s.t.get(key)
		if !there {
			continue
		}
		i, same := found.find(p)
		if !same || found.pools[i] != p {
			continue
		}
		if found.pools = slices.Delete(found.pools, i, i+1); len(found.pools) > 0 {
			found.first.Store(found.pools[0])
			continue
		}
		s.t.remove(key)
		ended = true
	}
	return ended
}

func (s *sharers) find(p *poolView) (int, bool) {
	return slices.BinarySearchFunc(s.pools, p.id, func(p *poolView, id int64) int { return cmp.Compare(p.id, id) })
}
