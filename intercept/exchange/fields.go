package exchange

import (
	"encoding/binary"
	"math/bits"
	"strconv"
)

// fieldID marks the fields that this package acts on; all others are 0.
type fieldID uint8

const (
	fieldOther fieldID = iota
	fieldHost
	fieldContentLength
	fieldTransferEncoding
	fieldConnection
	fieldKeepAlive
	fieldProxy // Proxy-Connection, Proxy-Authorization, Proxy-Authenticate ...
	fieldTE
	fieldUpgrade
	fieldExpect
	fieldContentEncoding
	fieldContentType
	fieldAcceptEncoding
	fieldHTTP2Settings
)

// field is one line of a field section, as offsets into the bytes it came in.
type field struct {
	line         uint32 // where the line begins, which is where its name does
	nameEnd      uint32
	value, until uint32 // without the white space around it
	end          uint32 // behind the line's CRLF
	id           fieldID
}

func (f *field) name(b []byte) []byte { return b[f.line:f.nameEnd] }
func (f *field) val(b []byte) []byte  { return b[f.value:f.until] }

// rejection is a message that is refused, with the status a client is told.
// Its text holds nothing of the message, so that it can be logged and sent.
type rejection struct {
	status int
	reason string
}

func (r *rejection) Error() string { return strconv.Itoa(r.status) + " " + r.reason }

func malformed(reason string) error { return &rejection{400, reason} }

// Classes of bytes: RFC 9110 section 5.6.2 for a token, 5.5 for a field value.
const (
	charToken = 1 << iota
	charValue
	charTarget
)

var classes = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			t[c] |= charToken
		}
		if c == '\t' || c >= ' ' && c != 0x7f {
			t[c] |= charValue
		}
		if c > ' ' && c < 0x7f && c != '#' {
			t[c] |= charTarget
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= charToken
	}
	return t
}()

// all tells whether every byte of b is of the class.
func all(b []byte, class uint8) bool {
	for _, c := range b {
		if classes[c]&class == 0 {
			return false
		}
	}
	return true
}

// parseFields reads the field lines in b[at:end]; each ends with CRLF. It is
// strict (RFC 9112 section 5): no obs-fold, no space before the colon, no bare
// CR, LF or NUL, since what two readers could understand differently is how
// requests are smuggled.
func parseFields(dst []field, b []byte, at, end, limit int) ([]field, error) {
	for at < end {
		f := field{line: uint32(at)}
		i := at
		for i < end && classes[b[i]]&charToken != 0 {
			i++
		}
		if i == at {
			if b[i] == ' ' || b[i] == '\t' {
				return dst, malformed("folded header line")
			}
			return dst, malformed("bad header name")
		}
		if i == end || b[i] != ':' {
			return dst, malformed("bad header name")
		}
		f.nameEnd = uint32(i)
		i++
		for i < end && (b[i] == ' ' || b[i] == '\t') {
			i++
		}
		f.value = uint32(i)
		i = valueEnd(b[:end], i)
		if i+1 >= end || b[i] != '\r' || b[i+1] != '\n' {
			return dst, malformed("bad character in a header value")
		}
		until := i
		for until > int(f.value) && (b[until-1] == ' ' || b[until-1] == '\t') {
			until--
		}
		f.until, f.end = uint32(until), uint32(i+2)
		if len(dst) == limit {
			return dst, &rejection{431, "too many header fields"}
		}
		f.id = identify(b[at:f.nameEnd])
		dst = append(dst, f)
		at = i + 2
	}
	return dst, nil
}

// valueEnd is where the first byte in b[i:] is that may not be in a value. It looks at eight at
// a time: most of a head are values.
func valueEnd(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for i+8 <= len(b) {
		word := binary.LittleEndian.Uint64(b[i:])
		del := word ^ (0x7f * ones)
		control := (word-0x20*ones) & ^word | (del-ones) & ^del
		if control &= tops; control == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(control) / 8 // what is carried goes up: the lowest is one
		if b[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(b) && classes[b[i]]&charValue != 0 {
		i++
	}
	return i
}

func identify(name []byte) fieldID {
	switch name[0] | 0x20 {
	case 'a':
		if equalFold(name, "accept-encoding") {
			return fieldAcceptEncoding
		}
	case 'h':
		if equalFold(name, "host") {
			return fieldHost
		}
		if equalFold(name, "http2-settings") {
			return fieldHTTP2Settings
		}
	case 'c':
		switch {
		case equalFold(name, "connection"):
			return fieldConnection
		case equalFold(name, "content-length"):
			return fieldContentLength
		case equalFold(name, "content-type"):
			return fieldContentType
		case equalFold(name, "content-encoding"):
			return fieldContentEncoding
		}
	case 't':
		if equalFold(name, "te") {
			return fieldTE
		}
		if equalFold(name, "transfer-encoding") {
			return fieldTransferEncoding
		}
	case 'k':
		if equalFold(name, "keep-alive") {
			return fieldKeepAlive
		}
	case 'p':
		if len(name) > 6 && equalFold(name[:6], "proxy-") {
			return fieldProxy
		}
	case 'u':
		if equalFold(name, "upgrade") {
			return fieldUpgrade
		}
	case 'e':
		if equalFold(name, "expect") {
			return fieldExpect
		}
	}
	return fieldOther
}

// equalFold compares b with an ASCII string in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// equalFoldBytes compares two names without regard to case.
func equalFoldBytes(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x >= 'A' && x <= 'Z' {
			x |= 0x20
		}
		if y >= 'A' && y <= 'Z' {
			y |= 0x20
		}
		if x != y {
			return false
		}
	}
	return true
}

// listItem cuts the first element off a comma-separated list.
func listItem(b []byte) (item, rest []byte) {
	end := len(b)
	for i, c := range b {
		if c == ',' {
			end, rest = i, b[i+1:]
			break
		}
	}
	item = b[:end]
	for len(item) > 0 && (item[0] == ' ' || item[0] == '\t') {
		item = item[1:]
	}
	for len(item) > 0 && (item[len(item)-1] == ' ' || item[len(item)-1] == '\t') {
		item = item[:len(item)-1]
	}
	return item, rest
}

// listHas tells whether a comma-separated list has the token, in any case.
func listHas(b []byte, lower string) bool {
	for len(b) > 0 {
		var item []byte
		item, b = listItem(b)
		if equalFold(item, lower) {
			return true
		}
	}
	return false
}

// decimal reads RFC 9110's 1*DIGIT; 18 digits are more than any real length.
func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
