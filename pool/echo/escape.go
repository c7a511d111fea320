package echo

// longestEscape is how many bytes one character is written with at most: as \u0041.
const longestEscape = 6

// ended says that a text ends within what may be an escape, or an occurrence.
const (
	ended   = -1
	differs = -2
)

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
		if isShort(p[1]) {
			return p[1], 2
		}
		if p[1] != 'u' {
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

// match is how many bytes at the beginning of p write text, the most if they can be read in
// several ways: differs if they do not, and ended if p ends before that is known.
func match(p, text []byte) int {
	at := 0
	for i, c := range text {
		n := written(p[at:], c)
		if n == 0 {
			return differs
		}
		if n != 1 && at < len(p) && p[at] == c { // what may begin an escape may also be itself
			most := ended
			if n > 0 {
				most = behind(at+n, match(p[at+n:], text[i+1:]))
			}
			return max(most, behind(at+1, match(p[at+1:], text[i+1:])))
		}
		if n == ended {
			return ended
		}
		at += n
	}
	return at
}

// behind is what a match is with at bytes before it.
func behind(at, n int) int {
	if n < 0 {
		return n
	}
	return at + n
}

// begins is where at the end of p, which it writes, text begins, the first if it can be
// read in several ways; -1 if p ends with something else.
func begins(p, text []byte) int {
	for len(text) > 0 {
		var c byte
		text, c = text[:len(text)-1], text[len(text)-1]
		one := 0
		for _, size := range [...]int{1, 2, 3, longestEscape} {
			if !endsIn(p, c, size) {
				continue
			}
			if one > 0 {
				first := begins(p[:len(p)-size], text)
				if first < 0 {
					first = begins(p[:len(p)-one], text)
				}
				return first
			}
			one = size
		}
		if one == 0 {
			return -1
		}
		p = p[:len(p)-one]
	}
	return len(p)
}

// endsIn says whether so many bytes at the end of p write the character c.
func endsIn(p []byte, c byte, size int) bool {
	at := len(p) - size
	if at < 0 {
		return false
	}
	if size == 1 {
		return p[at] == c
	}
	d, n := unescape(p[at:])
	return n == size && d == c
}

// each is a byte eight times.
const each = 0x0101010101010101

// has says whether a character is among eight.
func has(w uint64, c byte) bool {
	w ^= each * uint64(c)
	return (w-each)&^w&(each<<7) != 0
}
