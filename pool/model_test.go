package pool_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-proxy/sluice/pool"
)

// model is a pool in plain words.
type model struct {
	b        *bench
	r        pool.Route
	names    []string // members, in order
	spare    []string // credentials that are in no pool
	joined   map[string]int
	out      map[string]span
	probed   map[string]time.Time
	interval time.Duration // of probes; 0: none
	flights  []flight
}

// span is when a cooldown began and ends.
type span struct{ began, until time.Time }

// flight is a request that has not been answered.
type flight struct {
	lease  pool.Lease
	joined int // which membership of that name it was sent with
}

func (m *model) isOut(name string) bool { return m.b.clock().Before(m.out[name].until) }

func (m *model) left() int {
	n := 0
	for _, name := range m.names {
		if !m.isOut(name) {
			n++
		}
	}
	return n
}

func (m *model) soonest() string {
	first := m.names[0]
	for _, n := range m.names {
		if m.out[n].until.Before(m.out[first].until) {
			first = n
		}
	}
	return first
}

// TestModel drives the keeper with random requests, answers that come late, time,
// restarts and edits, and holds it to a model in plain words: a request never gets a
// member that is out but for a probe, and is never refused while one is not; an answer
// judges the member that the request was sent with; edges alternate.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{
			names: []string{"a", "b", "c"}, spare: []string{"d"},
			joined: map[string]int{}, out: map[string]span{}, probed: map[string]time.Time{},
			interval: rapid.SampledFrom([]time.Duration{0, 90 * time.Second}).Draw(rt, "probes"),
		}
		m.b = newBench(t, func(o *pool.Options) {
			if m.interval > 0 {
				o.ProbeInterval = m.interval
			}
		})
		defer m.b.stop() // a hundred open stores are slow
		m.r = m.b.pool(t, m.names...)
		m.b.add(t, m.spare...)
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			m.step(t, rt)
			m.check(t, rt)
		}
		checkEdges(t, rt, m.b)
	})
}

func (m *model) step(t *testing.T, rt *rapid.T) {
	steps := []string{"send", "send", "send", "answer", "answer", "answer", "pass", "restart", "rotate", "clear", "leave", "join"}
	switch rapid.SampledFrom(steps).Draw(rt, "step") {
	case "send":
		m.send(t, rt)
	case "answer":
		if len(m.flights) > 0 {
			m.answer(t, rt, rapid.IntRange(0, len(m.flights)-1).Draw(rt, "flight"))
		}
	case "pass":
		m.b.pass(time.Duration(rapid.IntRange(1, 200).Draw(rt, "seconds")) * time.Second)
		if _, err := m.b.Recover(t.Context()); err != nil {
			rt.Fatal(err)
		}
	case "restart":
		m.b.restart(t)
		m.flights = nil // they went with the process
	case "rotate":
		before := m.b.status(t).Active
		if m.b.Rotate(t.Context(), "p") == nil && m.b.status(t).Active == before {
			rt.Fatalf("rotate stayed with %q and said nothing", before)
		}
	case "clear":
		n := rapid.SampledFrom(m.names).Draw(rt, "member")
		if err := m.b.Clear(t.Context(), "p", n); err != nil {
			rt.Fatal(err)
		}
		delete(m.out, n)
	case "leave":
		m.leave(t, rt)
	case "join":
		if len(m.spare) > 0 {
			n := m.spare[0]
			if err := m.b.AddMember(t.Context(), "p", n); err != nil {
				rt.Fatal(err)
			}
			m.spare, m.names = m.spare[1:], append(m.names, n)
			m.joined[n]++
		}
	}
}

func (m *model) send(t *testing.T, rt *rapid.T) {
	l, err := m.b.Acquire(t.Context(), m.r, nil)
	if e := (*pool.ExhaustedError)(nil); errors.As(err, &e) {
		if m.left() > 0 {
			rt.Fatalf("refused while %d members are left", m.left())
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	m.flights = append(m.flights, flight{l, m.joined[l.Member]})
	if !l.Probe {
		if m.isOut(l.Member) {
			rt.Fatalf("leased %q, which is out", l.Member)
		}
		return
	}
	last := m.probed[l.Member]
	if began := m.out[l.Member].began; began.After(last) {
		last = began
	}
	if m.interval == 0 || m.left() > 0 || m.out[l.Member].until.After(m.out[m.soonest()].until) || m.b.clock().Sub(last) < m.interval {
		rt.Fatalf("probed %q out of turn: %d left, the last %s ago", l.Member, m.left(), m.b.clock().Sub(last))
	}
	m.probed[l.Member] = m.b.clock()
}

func (m *model) answer(t *testing.T, rt *rapid.T, i int) {
	f := m.flights[i]
	m.flights = slices.Delete(m.flights, i, i+1)
	refused := rapid.Bool().Draw(rt, "refused")
	wait := rapid.IntRange(10, 300).Draw(rt, "wait")
	if refused {
		m.b.answer(t, f.lease, 429, fmt.Sprint(wait))
	} else {
		m.b.answer(t, f.lease, 200, "")
	}
	name := f.lease.Member
	if f.joined != m.joined[name] || !slices.Contains(m.names, name) {
		return // it judges nobody who is there
	}
	now, was := m.b.clock(), m.out[name]
	if !refused {
		if f.lease.Sent.After(was.began) {
			delete(m.out, name)
		}
		return
	}
	next := was
	if !m.isOut(name) {
		next.began = now
	}
	if until := now.Add(time.Duration(wait) * time.Second); until.After(was.until) {
		next.until = until
	}
	m.out[name] = next
}

func (m *model) leave(t *testing.T, rt *rapid.T) {
	n := rapid.SampledFrom(m.names).Draw(rt, "member")
	err := m.b.RemoveMember(t.Context(), "p", n)
	if len(m.names) == 1 {
		if err == nil {
			rt.Fatal("the last member could be removed")
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	m.names = slices.DeleteFunc(m.names, func(x string) bool { return x == n })
	m.spare = append(m.spare, n)
	m.joined[n]++
	delete(m.out, n)
	delete(m.probed, n)
}

func (m *model) check(t *testing.T, rt *rapid.T) {
	s := m.b.status(t)
	if len(s.Members) != len(m.names) {
		rt.Fatalf("status lists %d members of %d", len(s.Members), len(m.names))
	}
	for i, member := range s.Members {
		if member.Name != m.names[i] {
			rt.Fatalf("status lists %q where %q is", member.Name, m.names[i])
		}
		if (member.State == pool.MemberCooldown) != m.isOut(member.Name) {
			rt.Fatalf("status says %s is %s", member.Name, member.State)
		}
	}
	if m.left() == 0 {
		return // asking could use up a probe
	}
	if l, err := m.b.Acquire(t.Context(), m.r, nil); err != nil || l.Member != s.Active {
		rt.Fatalf("status says %q is active, the next request gets %q (%v)", s.Active, l.Member, err)
	}
}

func checkEdges(t *testing.T, rt *rapid.T, b *bench) {
	events, err := b.LastEvents(t.Context(), 10000)
	if err != nil {
		rt.Fatal(err)
	}
	exhausted := false
	for _, e := range events {
		switch e.Kind {
		case pool.EventExhausted:
			if exhausted {
				rt.Fatalf("exhausted twice without a recovery: %+v", events)
			}
			exhausted = true
		case pool.EventRecovered:
			if !exhausted {
				rt.Fatalf("recovered without an exhaustion: %+v", events)
			}
			exhausted = false
		}
	}
}
