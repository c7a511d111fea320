// Package echo finds secrets in what an upstream answers, in the forms in which they are
// repeated: as they are, escaped for JSON or a URL, or inside of base64.
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
	maxWindow = 64
)

// seenBits makes a table of 2 KiB, which stays near the processor while other work is done
// between two pieces of a body.
const seenBits = 14

// Secret is what is looked for, and what is put in its place.
type Secret struct {
	Value       []byte
	Placeholder []byte
}

// form is one way of writing a secret.
type form struct {
	text []byte
	// exact is the placeholder written the same way, same is as long as text: where
	// the length cannot change.
	exact, same []byte
}

// Matcher finds secrets. It is made once for a credential and is read-only from then on.
//
// All forms have window bytes in common with nothing else, so it is enough to look up
// every stride-th group of bytes: an occurrence has one of those in its first window
// bytes, wherever it begins.
type Matcher struct {
	forms   []form
	window  int
	stride  int
	longest int

	seen   []uint64            // a bit for each hash of a gram
	grams  map[uint64][]place  // where a gram stands
	starts map[uint16][]uint16 // forms by their first two bytes
	pairs  []uint64            // a bit for each of these
}

type place struct{ form, offset uint16 }

// Format implements [fmt.Formatter]: whatever the verb, no secret is shown.
func (*Matcher) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "REDACTED") }

// New makes a matcher, nil if there is nothing to look for.
func New(secrets []Secret) *Matcher {
	m := &Matcher{window: maxWindow, grams: make(map[uint64][]place), starts: make(map[uint16][]uint16)}
	for _, s := range secrets {
		if len(s.Value) >= MinSecret {
			m.add(s)
		}
	}
	if len(m.forms) == 0 {
		return nil
	}
	m.seen, m.pairs = make([]uint64, 1<<seenBits/64), make([]uint64, 1<<16/64)
	for _, f := range m.forms {
		m.window, m.longest = min(m.window, len(f.text)), max(m.longest, len(f.text))
	}
	m.stride = m.window - gram + 1
	for i, f := range m.forms {
		for o := range m.stride {
			g := binary.LittleEndian.Uint64(f.text[o:])
			h := hash(g)
			m.seen[h/64] |= 1 << (h % 64)
			m.grams[g] = append(m.grams[g], place{uint16(i), uint16(o)})
		}
		pair := binary.LittleEndian.Uint16(f.text)
		m.pairs[pair/64] |= 1 << (pair % 64)
		m.starts[pair] = append(m.starts[pair], uint16(i))
	}
	return m
}

func hash(g uint64) uint16 { return uint16(g * 0x9e3779b97f4a7c15 >> (64 - seenBits)) }

// add takes in all forms of a secret that differ.
func (m *Matcher) add(s Secret) {
	filler := fill(s.Placeholder, len(s.Value))
	for _, write := range plainForms {
		m.addForm(form{write(s.Value), write(s.Placeholder), nil})
	}
	for _, alphabet := range alphabets {
		for shift := range 3 {
			// What is before and behind is not known, so nothing may move.
			same := inside(alphabet, filler, shift)
			m.addForm(form{inside(alphabet, s.Value, shift), same, same})
		}
	}
}

func (m *Matcher) addForm(f form) {
	if len(f.text) < gram || slices.ContainsFunc(m.forms, func(g form) bool { return bytes.Equal(f.text, g.text) }) {
		return
	}
	if f.same == nil {
		f.same = fill(f.exact, len(f.text))
	}
	m.forms = append(m.forms, f)
}

// fill makes a text of n bytes out of a placeholder: cut, or filled up.
func fill(placeholder []byte, n int) []byte {
	out := bytes.Repeat([]byte{'x'}, n)
	copy(out, placeholder)
	return out
}

// next finds the first occurrence that begins at from or later, the longest if several
// begin there; form is -1 if there is none in whole. begun is where one may have begun that
// goes on behind p, len(p) if none has; it is valid if form is -1.
func (m *Matcher) next(p []byte, from int) (at, form, begun int) {
	begun = len(p)
	for q := from; q+gram <= len(p); q += m.stride {
		g := binary.LittleEndian.Uint64(p[q:])
		if h := hash(g); m.seen[h/64]&(1<<(h%64)) == 0 {
			continue
		}
		at, form = -1, -1
		for _, c := range m.grams[g] {
			s, text := q-int(c.offset), m.forms[c.form].text
			if s < from {
				continue
			}
			if rest := p[s:]; len(rest) < len(text) {
				if bytes.Equal(rest, text[:len(rest)]) {
					begun = min(begun, s)
				}
			} else if bytes.Equal(rest[:len(text)], text) && (form < 0 || s < at || s == at && len(text) > len(m.forms[form].text)) {
				at, form = s, int(c.form)
			}
		}
		if form >= 0 {
			return at, form, 0
		}
	}
	return len(p), -1, min(begun, m.tail(p, from))
}

// tail is where a form may have begun of which less is there than a gram is sure to be in.
func (m *Matcher) tail(p []byte, from int) int {
	s := max(from, len(p)-m.window)
	for ; s+1 < len(p); s++ {
		pair := uint16(p[s]) | uint16(p[s+1])<<8
		if m.pairs[pair/64]&(1<<(pair%64)) == 0 {
			continue
		}
		rest := p[s:]
		for _, i := range m.starts[pair] {
			if text := m.forms[i].text; len(rest) < len(text) && bytes.Equal(rest, text[:len(rest)]) {
				return s
			}
		}
	}
	if s < len(p) && slices.ContainsFunc(m.forms, func(f form) bool { return f.text[0] == p[s] }) {
		return s
	}
	return len(p)
}

// Longest is how long the longest form is, in bytes.
func (m *Matcher) Longest() int { return m.longest }

// Contains says whether a secret is in p.
func (m *Matcher) Contains(p []byte) bool {
	_, form, _ := m.next(p, 0)
	return form >= 0
}

// Replace returns p with placeholders in the place of secrets; p itself if it holds none.
func (m *Matcher) Replace(p []byte) []byte {
	at, form, _ := m.next(p, 0)
	if form < 0 {
		return p
	}
	var out []byte
	from := 0
	for form >= 0 {
		out = append(append(out, p[from:at]...), m.forms[form].exact...)
		from = at + len(m.forms[form].text)
		at, form, _ = m.next(p, from)
	}
	return append(out, p[from:]...)
}
