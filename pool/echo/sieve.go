package echo

import "encoding/binary"

// sieveBits makes a table of 4 KiB, which stays near the processor while other work
// is done between two pieces of a body.
const sieveBits = 15

// reach is how many bytes before a sample the sieve looks at.
const reach = 2

// again is how many bytes behind a sample that may be in an occurrence the sieve looks once
// more: what is none passes it by chance, some in a hundred times, but not twice.
const again = 2

// sieve tells whether a sample may be in an occurrence, whatever of that is escaped. With
// white space, a quotation mark or what is no ASCII among its eight bytes it is in none,
// which most are found out by and no table is asked for. Of the others five bytes tell: the
// three from the sample on are looked up. Of those that are the end of an escape and what
// follows it there would be too many: there the two before tell.
type sieve struct {
	low           uint64                      // the least byte that an occurrence may have, eight times
	outside       uint64                      // the bits that are set in a byte of none; 0 if any may be in one
	threes        [1 << sieveBits / 64]uint64 // a bit for each hash of three bytes
	before, after [256]ending                 // of the two, each by itself
}

// ending is how two bytes before a sample may be in an escape that the sample is in, too:
// in one of these ways if both may be.
type ending uint8

const (
	zeroAndDigit    ending = 1 << iota // of \u0041, between the zeros and 4, or behind 4
	percentAndDigit                    // of %41, behind 4
	percent                            // of %41, before 4; before it may be anything
)

// newSieve makes one for samples of which the first character is one of the first n of a
// form, behind which it goes on for gram-1 more.
func newSieve(forms []form, n int) *sieve {
	s := &sieve{low: each * '%', outside: each << 7}
	for _, f := range forms {
		for _, c := range f.text {
			s.low = min(s.low, each*uint64(c))
			if c > 0x7f {
				s.outside = 0
			}
		}
	}
	s.add('\\', 'u', '0')
	s.add('u', '0', '0')
	s.before['0'], s.after['0'] = zeroAndDigit, zeroAndDigit
	s.before['%'] = percentAndDigit
	for c := range s.before {
		s.before[c] |= percent
	}
	s.after['%'] = percent
	for _, f := range forms {
		for o := range n + again {
			c, rest := f.text[o], f.text[o+1:]
			for _, two := range firstTwo(rest) {
				s.add(c, byte(two), byte(two>>8))
			}
			if isShort(c) {
				for _, one := range [...]byte{rest[0], '\\', '%'} {
					s.add('\\', c, one)
				}
			}
			for _, high := range digits(c >> 4) {
				s.add('0', '0', high)
				s.after[high] |= zeroAndDigit | percentAndDigit
				for _, low := range digits(c & 15) {
					s.add('0', high, low)
					s.add('%', high, low)
				}
			}
		}
	}
	return s
}

// firstTwo are the two bytes that a text may begin with.
func firstTwo(text []byte) []uint16 {
	c := uint16(text[0])
	pairs := []uint16{c | uint16(text[1])<<8, c | '\\'<<8, c | '%'<<8, '\\' | 'u'<<8}
	if isShort(text[0]) {
		pairs = append(pairs, '\\'|c<<8)
	}
	for _, high := range digits(text[0] >> 4) {
		pairs = append(pairs, '%'|uint16(high)<<8)
	}
	return pairs
}

// isShort says whether a character may be escaped with nothing but a backslash.
func isShort(c byte) bool { return c == '/' || c == '"' || c == '\\' }

// digits are the ways to write a hexadecimal digit.
func digits(d byte) []byte {
	if d > 9 {
		return []byte{d - 10 + 'a', d - 10 + 'A'}
	}
	return []byte{d + '0'}
}

func (s *sieve) add(a, b, c byte) {
	h := sieveHash(uint32(a) | uint32(b)<<8 | uint32(c)<<16)
	s.threes[h/64] |= 1 << (h % 64)
}

// sieveHash is that of the lower three bytes.
func sieveHash(three uint32) uint32 { return three << 8 * 0x9e3779b1 >> (32 - sieveBits) }

// pass is the first of the samples at q, a stride behind that and so on that may be in an
// occurrence; one of which less than a group is in p if there is none. There must be reach
// bytes before q.
func (s *sieve) pass(p []byte, q, stride int) int {
	// Tables and condition are so that the compiler sees that nothing else has to be checked.
	threes, before, after := &s.threes, &s.before, &s.after
	low, outside := s.low, s.outside
	i := q - reach
	for ; 0 <= i && i < len(p)-(reach+gram-1); i += stride {
		if g := binary.LittleEndian.Uint64(p[i+reach:]); ((g-low)|g)&outside != 0 {
			continue
		}
		w := binary.LittleEndian.Uint64(p[i:])
		h := sieveHash(uint32(w >> (8 * reach)))
		if (threes[h/64]&(1<<(h%64)) != 0 || before[byte(w)]&after[byte(w>>8)] != 0) && s.may(p[i+again:]) {
			break
		}
	}
	return i + reach
}

// may says whether a sample with reach bytes before it, where p begins, may be in an
// occurrence.
func (s *sieve) may(p []byte) bool {
	w := binary.LittleEndian.Uint64(p)
	h := sieveHash(uint32(w >> (8 * reach)))
	return s.threes[h/64]&(1<<(h%64)) != 0 || s.before[byte(w)]&s.after[byte(w>>8)] != 0
}
