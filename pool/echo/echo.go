// Package echo finds secrets in what an upstream answers, in the forms in which they are
// repeated: as they are or inside of base64, with any of it escaped for JSON or a URL.
package echo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
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

// seenBits makes a table of 4 KiB, which stays near the processor while other work is done
// between two pieces of a body.
const seenBits = 15

// Secret is what is looked for, and what is put in its place.
type Secret struct {
	Value       []byte
	Placeholder []byte
}

// Matcher finds secrets. It is made once for a credential and is read-only from then on.
//
// All forms have window bytes in common with nothing else, so it is enough to look up
// every stride-th group of bytes: an occurrence has one of those in its first window
// bytes, wherever it begins. Where there are escapes the group is read without them; they
// make an occurrence longer, so that no more of it is passed over.
type Matcher struct {
	forms   []form
	window  int
	stride  int
	longest int

	seen   *[1 << seenBits / 64]uint64 // a bit for each hash of a gram
	grams  map[uint64][]place          // where a gram stands
	starts map[uint16][]uint16         // forms by their first two bytes
	chars  *[256]bool                  // that forms are made of
	pairs  []uint64                    // a bit for each of these
}

type place struct{ form, offset uint16 }

// Format implements [fmt.Formatter]: whatever the verb, no secret is shown.
func (*Matcher) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "REDACTED") }

// New makes a matcher, nil if there is nothing to look for.
func New(secrets []Secret) *Matcher {
	m := &Matcher{window: maxWindow, grams: make(map[uint64][]place), starts: make(map[uint16][]uint16)}
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
	m.chars = new([256]bool)
	m.seen, m.pairs = new([1 << seenBits / 64]uint64), make([]uint64, 1<<16/64)
	for _, f := range m.forms {
		m.window, m.longest = min(m.window, len(f.text)), max(m.longest, longestEscape*len(f.text))
	}
	m.stride = m.window - gram + 1
	for i, f := range m.forms {
		for _, c := range f.text {
			m.chars[c] = true
		}
		for o := range m.stride {
			g := binary.LittleEndian.Uint64(f.text[o:])
			h := hash(g)
			m.seen[h/64] |= 1 << (h % 64)
			m.grams[g] = append(m.grams[g], place{uint16(i), uint16(o)})
		}
		for _, pair := range firstBytes(f.text) {
			m.pairs[pair/64] |= 1 << (pair % 64)
			m.starts[pair] = append(m.starts[pair], uint16(i))
		}
	}
	return m
}

func hash(g uint64) uint16 { return uint16(g * 0x9e3779b97f4a7c15 >> (64 - seenBits)) }

func (m *Matcher) add(f form) {
	if len(f.text) < gram || slices.ContainsFunc(m.forms, func(g form) bool { return bytes.Equal(f.text, g.text) }) {
		return
	}
	m.forms = append(m.forms, f)
}

// firstBytes are the two bytes that a form may begin with.
func firstBytes(text []byte) []uint16 {
	const digits = "0123456789abcdefABCDEF"
	pairs := []uint16{uint16('\\') | 'u'<<8, uint16('\\') | uint16(text[0])<<8, uint16('%') | uint16(digits[text[0]>>4])<<8}
	if d := text[0] >> 4; d > 9 {
		pairs = append(pairs, uint16('%')|uint16(digits[d+6])<<8)
	}
	for _, second := range []byte{text[1], '\\', '%'} {
		pairs = append(pairs, uint16(text[0])|uint16(second)<<8)
	}
	return pairs
}

// found is an occurrence: from where to where, and of which form; -1 if there is none.
type found struct{ at, end, form int }

// next finds the first occurrence that begins at from or later, the longest if several
// begin there. begun is where one may have begun that goes on behind p, len(p) if none has;
// it is valid if none was found in whole.
func (m *Matcher) next(p []byte, from int) (first found, begun int) {
	begun = len(p)
	q := from
	for clean := from + firstEscape(p[from:]); q+gram <= clean; q += m.stride {
		g := binary.LittleEndian.Uint64(p[q:])
		if h := hash(g); m.seen[h/64]&(1<<(h%64)) == 0 {
			continue
		}
		if first, begun = m.occurrence(p, from, q, g, begun); first.form >= 0 {
			return first, 0
		}
	}
	for quoted := m.chars['"'] || m.chars['\\']; q+gram <= len(p); q += m.stride {
		g := binary.LittleEndian.Uint64(p[q:])
		if h := hash(g); m.seen[h/64]&(1<<(h%64)) != 0 {
			if first, begun = m.occurrence(p, from, q, g, begun); first.form >= 0 {
				return first, 0
			}
		}
		if q >= longestEscape && !mayEscape(g, quoted) && !mayEscape(binary.LittleEndian.Uint64(p[q-longestEscape+1:]), quoted) {
			continue
		}
		g, at, ok := gramAt(p, q, m.chars) // if p ends before, the tail is looked at closely
		if !ok {
			continue
		}
		if h := hash(g); m.seen[h/64]&(1<<(h%64)) == 0 {
			continue
		}
		if first, begun = m.occurrence(p, from, at, g, begun); first.form >= 0 {
			return first, 0
		}
	}
	return found{len(p), len(p), -1}, min(begun, m.tail(p, from))
}

// occurrence finds that which has the group g at p[at]. One that goes on behind p makes
// begun smaller.
func (m *Matcher) occurrence(p []byte, from, at int, g uint64, begun int) (first found, _ int) {
	first.form = -1
	for _, c := range m.grams[g] {
		text := m.forms[c.form].text
		for _, bare := range [...]bool{false, true} {
			s := begins(p, at, text[:c.offset], bare)
			if s < from {
				continue
			}
			switch n := match(p[s:], text); {
			case n == ended:
				begun = min(begun, s)
			case n > 0 && (first.form < 0 || s < first.at || s == first.at && s+n > first.end):
				first = found{s, s + n, int(c.form)}
			}
		}
	}
	return first, begun
}

// tail is where a form may have begun of which less is there than a gram is sure to be in.
func (m *Matcher) tail(p []byte, from int) int {
	s := max(from, len(p)-m.stride-gram*longestEscape)
	for ; s+1 < len(p); s++ {
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
	if s < len(p) && (p[s] == '\\' || p[s] == '%' || slices.ContainsFunc(m.forms, func(f form) bool { return f.text[0] == p[s] })) {
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
