package echo

import "bytes"

// longestEscape is how many bytes one character is written with at most: as \u0041.
const longestEscape = 6

// ended says that a text ends within what may be an escape, or an occurrence.
const ended = -1

// unescape reads an escape of JSON (RFC 8259 section 7) or of a URL (RFC 3986 section 2.1)
// at the beginning of p: the character and how many bytes it took. n is 0 if there is
// none, and ended if p ends in what may be one.
func unescape(p []byte) (c byte, n int) {
	digits := p
	switch p[0] {
	case '%':
		digits, n = p[1:], 3
	case '\\':
		if len(p) == 1 {
			return 0, ended
		}
		switch p[1] {
		case '/', '"', '\\':
			return p[1], 2
		case 'u':
		default:
			return 0, 0
		}
		for i := 2; i < 4; i++ {
			if i == len(p) {
				return 0, ended
			}
			if p[i] != '0' {
				return 0, 0
			}
		}
		digits, n = p[4:], longestEscape
	default:
		return 0, 0
	}
	for i := range 2 {
		if i == len(digits) {
			return 0, ended
		}
		d := hexDigit(digits[i])
		if d > 15 {
			return 0, 0
		}
		c = c<<4 | d
	}
	return c, n
}

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

// written is how many bytes at the beginning of p write the character c: 0 if they do not,
// and ended if p ends before that is known.
func written(p []byte, c byte) int {
	if len(p) == 0 {
		return ended
	}
	if p[0] == '\\' || p[0] == '%' {
		if d, n := unescape(p); n == ended || n > 0 && d == c {
			return n
		}
	}
	if p[0] == c {
		return 1
	}
	return 0
}

// writtenBefore is how many bytes at the end of p write the character c; 0 if they do not.
// The last byte may do it alone and with an escape that it ends.
func writtenBefore(p []byte, c byte, bare bool) int {
	n := len(p)
	if bare && n > 0 && p[n-1] == c {
		return 1
	}
	for _, size := range [...]int{longestEscape, 3, 2} {
		if at := n - size; at >= 0 && (p[at] == '\\' || p[at] == '%') {
			if d, m := unescape(p[at:]); m == size && d == c {
				return size
			}
		}
	}
	if n > 0 && p[n-1] == c {
		return 1
	}
	return 0
}

// match is how many bytes at the beginning of p write text: 0 if they do not, and ended if
// p ends before that is known.
func match(p, text []byte) int {
	at := 0
	for _, c := range text {
		n := written(p[at:], c)
		if n <= 0 {
			return n
		}
		at += n
	}
	return at
}

// begins is where an occurrence would begin of which the character with this offset is at
// p[at]; -1 if what is before that is something else. Where bytes are characters alone and
// the end of an escape, too, bare takes them for the former.
func begins(p []byte, at int, text []byte, bare bool) int {
	for i := len(text) - 1; i >= 0; i-- {
		n := writtenBefore(p[:at], text[i], bare)
		if n == 0 {
			return -1
		}
		at -= n
	}
	return at
}

const (
	everyByte = 0x0101010101010101
	highBits  = 0x8080808080808080
)

// firstEscape is where in p the first escape may begin, len(p) if there is none.
func firstEscape(p []byte) int {
	for _, c := range [...]byte{'\\', '%'} {
		if i := bytes.IndexByte(p, c); i >= 0 {
			p = p[:i]
		}
	}
	return len(p)
}

// zeros has a bit for each byte that is 0, and perhaps for one behind it.
func zeros(w uint64) uint64 { return (w - everyByte) &^ w & highBits }

// mayEscape says whether an escape may begin in eight bytes: that of a quotation mark or a
// backslash only if quoted.
func mayEscape(w uint64, quoted bool) bool {
	slash := zeros(w ^ everyByte*'\\')
	if !quoted {
		slash &= (zeros(w^everyByte*'u')|zeros(w^everyByte*'/'))>>8 | 1<<63 // what follows the last is not known
	}
	return slash|zeros(w^everyByte*'%') != 0
}

// gramAt reads the group of characters that begins at q, or with the escape that q is in
// the middle of: where it begins. ok is false if p ends before, or if it holds a character
// that is not one of chars.
func gramAt(p []byte, q int, chars *[256]bool) (g uint64, at int, ok bool) {
	at = q
	for k := 1; k < longestEscape && k <= q; k++ {
		if c := p[q-k]; c == '\\' || c == '%' {
			if _, n := unescape(p[q-k:]); n > k {
				at = q - k
				break
			}
		}
	}
	for i, s := 0, at; i < gram; i++ {
		if s >= len(p) {
			return 0, 0, false
		}
		c := p[s]
		s++
		if c == '\\' || c == '%' {
			d, n := unescape(p[s-1:])
			if n == ended {
				return 0, 0, false
			}
			if n > 0 {
				c = d
				s += n - 1
			}
		}
		if !chars[c] {
			return 0, 0, false
		}
		g |= uint64(c) << (8 * i)
	}
	return g, at, true
}
