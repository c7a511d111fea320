package echo

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"unicode/utf8"
)

// form is one text that a secret may stand in an answer as, whatever of it is escaped.
type form struct {
	text []byte
	// stub goes in its place; if it is nil the text is inside of base64, nothing may move,
	// and same, which is as long as text, goes there.
	stub, same []byte
	// made says that text is not the secret's own memory.
	made bool
}

func (f *form) forget() {
	if f.made {
		clear(f.text)
	}
}

var alphabets = []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding}

// formsOf are all forms of a secret.
func formsOf(s Secret) []form {
	all := []form{{text: s.Value, stub: s.Placeholder}}
	if bytes.IndexByte(s.Value, ' ') >= 0 { // in a query
		all = append(all, form{text: bytes.ReplaceAll(s.Value, []byte(" "), []byte("+")), stub: s.Placeholder, made: true})
	}
	if bytes.ContainsFunc(s.Value, func(r rune) bool { return r >= utf8.RuneSelf }) {
		for _, digits := range []string{`\u%04x`, `\u%04X`} {
			all = append(all, form{text: ascii(s.Value, digits), stub: s.Placeholder, made: true})
		}
	}
	filler := fill(s.Placeholder, len(s.Value))
	for _, alphabet := range alphabets {
		for shift := range 3 {
			all = append(all, form{text: inside(alphabet, s.Value, shift), same: inside(alphabet, filler, shift), made: true})
		}
	}
	return all
}

// ascii writes what is not ASCII as JSON may (RFC 8259 section 7).
func ascii(text []byte, digits string) []byte {
	var out []byte
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf:
			out = append(out, byte(r))
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, digits+digits, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, digits, r)
		}
	}
	return out
}

// inside is what is sure of a text in base64 with shift bytes (modulo 3) before it: of its
// first and last characters some bits are its neighbours' (RFC 4648 section 4).
func inside(alphabet *base64.Encoding, text []byte, shift int) []byte {
	before := [3]int{0, 2, 3}[shift] // characters that hold bits of what is before
	plain := append(make([]byte, shift, shift+len(text)), text...)
	defer clear(plain)
	coded := make([]byte, alphabet.EncodedLen(len(plain)))
	alphabet.Encode(coded, plain)
	if len(plain)%3 != 0 {
		coded = coded[:len(coded)-1]
	}
	return coded[before:]
}

// fill makes a text of n bytes out of a placeholder: cut, or filled up.
func fill(placeholder []byte, n int) []byte {
	out := bytes.Repeat([]byte{'x'}, n)
	copy(out, placeholder)
	return out
}

// instead is what overwrites an occurrence without moving anything: as many bytes as raw,
// which it was, has.
func (f *form) instead(raw []byte) []byte {
	if f.same == nil {
		return fill(f.stub, len(raw))
	}
	out := make([]byte, 0, len(raw))
	for i, rest := 0, raw; i < len(f.text); i++ {
		n := written(rest, f.text[i])
		switch c := f.same[i]; n {
		case 1:
			out = append(out, c)
		case 3:
			out = fmt.Appendf(out, "%%%02X", c)
		case longestEscape:
			out = fmt.Appendf(out, `\u%04x`, c)
		default: // a slash with a backslash before it, which nothing else can have there
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	return out
}
