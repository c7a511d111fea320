// Package echo finds secrets in what an upstream answers, in the forms in which they are
// repeated: as they are or inside of base64, with any of it escaped for JSON or a URL.
package echo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
)

// MinSecret is how long a secret must be, in bytes, to be looked for: what is shorter
// stands in ordinary text, too.
const MinSecret = 8

// gram is the size of what is looked up; maxWindow bounds how far from its beginning a
// form is found by that.
const (
	gram      = 8
	maxWindow = 160
)

// seenBits makes a table of 4 KiB.
const seenBits = 15

// Secret is what is looked for, and what is put in its place.
type Secret struct {
	Value       []byte
	Placeholder []byte
}

// Matcher finds secrets. It is made once for a credential and is read-only from then on.
//
// All forms are at least window bytes long, so it is enough to look up every stride-th
// group of bytes: an occurrence has one of those in its first window bytes, wherever it
// begins. Escapes make an occurrence longer, so that no more of it is passed over; the
// group is read without them.
type Matcher struct {
	forms   []form
	window  int
	stride  int
	longest int

	sieve  *sieve
	seen   *[1 << seenBits / 64]uint64 // a bit for each hash of a gram
	grams  map[uint64][]place          // where a gram stands
	starts map[uint16][]uint16         // forms by their first two bytes
	pairs  []uint64                    // a bit for each of these
	bytes  *[256]role
}

// role is what a byte may be in an occurrence.
type role uint8

const (
	isChar  role = 1 << iota // one of a form, as it is
	isInner                  // that, or part of an escape
	isFirst                  // the first one
)

type place struct{ form, offset uint16 }

// Format implements [fmt.Formatter]: whatever the verb, no secret is shown.
func (*Matcher) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "REDACTED") }

// New makes a matcher, nil if there is nothing to look for.
func New(secrets []Secret) *Matcher {
	m := &Matcher{window: maxWindow, starts: make(map[uint16][]uint16)}
	for _, s := range secrets {
		if len(s.Value) < MinSecret {
			continue
		}
		for _, f := range formsOf(s) {
			m.add(f)
		}
	}
	if len(m.forms) == 0 {
		return nil
	}
	m.seen, m.pairs, m.bytes = new([1 << seenBits / 64]uint64), make([]uint64, 1<<16/64), new([256]role)
	for _, c := range []byte(`\%u0123456789abcdefABCDEF`) {
		m.bytes[c] = isInner
	}
	for _, f := range m.forms {
		m.window, m.longest = min(m.window, len(f.text)), max(m.longest, longestEscape*len(f.text))
	}
	m.stride = m.window - gram + 1
	m.sieve = newSieve(m.forms, m.stride)
	m.grams = make(map[uint64][]place, len(m.forms)*m.stride) // one that grew would leave copies behind
	runtime.SetFinalizer(m, (*Matcher).forget)
	for i, f := range m.forms {
		for _, c := range f.text {
			m.bytes[c] |= isChar | isInner
		}
		for o := range m.stride {
			g := binary.LittleEndian.Uint64(f.text[o:])
			h := hash(g)
			m.seen[h/64] |= 1 << (h % 64)
			m.grams[g] = append(m.grams[g], place{uint16(i), uint16(o)})
		}
		for _, pair := range firstTwo(f.text) {
			m.pairs[pair/64] |= 1 << (pair % 64)
			m.starts[pair] = append(m.starts[pair], uint16(i))
			m.bytes[byte(pair)] |= isFirst
		}
	}
	return m
}

// forget overwrites what was made of the secrets, once nobody has the matcher.
func (m *Matcher) forget() {
	for i := range m.forms {
		m.forms[i].forget()
	}
	clear(m.grams)
}

func hash(g uint64) uint16 { return uint16(g * 0x9e3779b97f4a7c15 >> (64 - seenBits)) }

func (m *Matcher) add(f form) {
	if len(f.text) < gram || slices.ContainsFunc(m.forms, func(g form) bool { return bytes.Equal(f.text, g.text) }) {
		f.forget()
		return
	}
	m.forms = append(m.forms, f)
}

// found is an occurrence: from where to where, and of which form; -1 if there is none.
type found struct{ at, end, form int }

// next finds the first occurrence that begins at from or later, the longest if several
// begin there. begun is where one may have begun that goes on behind p, len(p) if none has;
// it is valid if none was found in whole.
func (m *Matcher) next(p []byte, from int) (first found, begun int) {
	h := hunt{m: m, p: p, from: from, first: found{form: -1}, begun: len(p)}
	// The first sample is as far on as one may be that is in whatever begins at from.
	for q := from + m.stride - 1; ; q += m.stride {
		if q >= from+reach {
			q = m.sieve.pass(p, q, m.stride)
		}
		if q+gram > len(p) {
			break
		}
		if h.lookAt(q); h.first.form >= 0 {
			return h.first, 0
		}
	}
	return found{len(p), len(p), -1}, min(h.begun, m.tail(p, from))
}

// hunt is the search for occurrences around one group after the other.
type hunt struct {
	m     *Matcher
	p     []byte
	from  int // occurrences do not begin before
	first found
	begun int
}

// lookAt looks up the group of bytes at q, and that of characters if there are escapes.
func (h *hunt) lookAt(q int) {
	g := binary.LittleEndian.Uint64(h.p[q:])
	h.lookUp(g, q)
	if escapes(g) {
		h.read(q, q, 0, 0)
	}
	if q >= gram && !escapes(binary.LittleEndian.Uint64(h.p[q-gram:])) {
		return // no escape goes on at q: none is as long as a group
	}
	for at := max(h.from, q-longestEscape+1); at < q; at++ {
		if h.p[at] != '\\' && h.p[at] != '%' {
			continue
		}
		if c, n := unescape(h.p[at:]); at+n > q && h.m.bytes[c]&isChar != 0 {
			h.read(at, at+n, uint64(c), 1)
		}
	}
}

// escapes says whether an escape may begin in a group.
func escapes(g uint64) bool { return has(g, '\\') || has(g, '%') }

// read reads the group of which n characters, those in g, end at s, and looks up what it
// may be: where bytes are characters and an escape, too, it is more than one. If p ends
// before, the tail is looked at closely.
func (h *hunt) read(at, s int, g uint64, n int) {
	for ; n < gram; n++ {
		if s >= len(h.p) {
			return
		}
		c, size := h.p[s], 1
		if c == '\\' || c == '%' {
			if d, m := unescape(h.p[s:]); m > 0 && h.m.bytes[d]&isChar != 0 {
				if h.m.bytes[c]&isChar != 0 {
					h.read(at, s+1, g|uint64(c)<<(8*n), n+1)
				}
				c, size = d, m
			}
		}
		if h.m.bytes[c]&isChar == 0 {
			return
		}
		g |= uint64(c) << (8 * n)
		s += size
	}
	if s-at > gram {
		h.lookUp(g, at)
	}
}

// lookUp finds occurrences that have the group g at p[at].
func (h *hunt) lookUp(g uint64, at int) {
	if i := hash(g); h.m.seen[i/64]&(1<<(i%64)) == 0 {
		return
	}
	for _, c := range h.m.grams[g] {
		text := h.m.forms[c.form].text
		s := begins(h.p[h.from:at], text[:c.offset])
		if s < 0 {
			continue
		}
		s += h.from
		switch n := match(h.p[s:], text); {
		case n == ended:
			h.begun = min(h.begun, s)
		case n > 0 && (h.first.form < 0 || s < h.first.at || s == h.first.at && s+n > h.first.end):
			h.first = found{s, s + n, int(c.form)}
		}
	}
}

// tail is where a form may have begun of which less is there than a gram is sure to be in.
func (m *Matcher) tail(p []byte, from int) int {
	s, least := len(p), max(from, len(p)-m.stride-gram*longestEscape)
	for s > least && m.bytes[p[s-1]]&isInner != 0 {
		s--
	}
	for ; s+1 < len(p); s++ {
		if m.bytes[p[s]]&isFirst == 0 {
			continue // asked for first: all pairs are many cache lines
		}
		pair := uint16(p[s]) | uint16(p[s+1])<<8
		if m.pairs[pair/64]&(1<<(pair%64)) == 0 {
			continue
		}
		for _, i := range m.starts[pair] {
			if match(p[s:], m.forms[i].text) == ended {
				return s
			}
		}
	}
	if s < len(p) && m.bytes[p[s]]&isFirst != 0 {
		return s
	}
	return len(p)
}

// Longest is how many bytes a secret may take up at most.
func (m *Matcher) Longest() int { return m.longest }

// Contains says whether a secret is in p.
func (m *Matcher) Contains(p []byte) bool {
	f, _ := m.next(p, 0)
	return f.form >= 0
}

// Replace returns p with placeholders in the place of secrets; p itself if it holds none.
func (m *Matcher) Replace(p []byte) []byte {
	f, _ := m.next(p, 0)
	if f.form < 0 {
		return p
	}
	var out []byte
	from := 0
	for f.form >= 0 {
		out = append(out, p[from:f.at]...)
		if form := &m.forms[f.form]; form.same == nil {
			out = append(out, form.stub...)
		} else {
			out = append(out, form.instead(p[f.at:f.end])...)
		}
		from = f.end
		f, _ = m.next(p, from)
	}
	return append(out, p[from:]...)
}
