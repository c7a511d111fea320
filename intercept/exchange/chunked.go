package exchange

// maxChunkLine bounds a chunk's size line with its extensions, maxTrailers a
// trailer section.
const (
	maxChunkLine = 4 << 10
	maxTrailers  = 16 << 10
)

type chunkState uint8

const (
	chunkSize chunkState = iota // hex digits
	chunkExt                    // extensions, up to the CR
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailers
	chunkDone
)

// chunks follows the chunked coding (RFC 9112 section 7.1) over bytes that come
// in any pieces. It keeps no data: bytes that pass it are valid framing and can
// be sent on as they are.
type chunks struct {
	state    chunkState
	digits   uint8
	line     uint16 // length of the size line so far
	left     int64  // of the current chunk
	trailers []byte // the section so far; nil in nearly all messages

	// blank has extensions overwritten, which whoever does not know them has to ignore: what they say is looked for nowhere.
	blank bool
}

// step takes the next run of bytes off p: n bytes, all of them payload if data
// is true and all of them framing otherwise.
func (c *chunks) step(p []byte) (n int, data bool, err error) {
	if c.state == chunkData {
		n = int(min(int64(len(p)), c.left))
		c.left -= int64(n)
		if c.left == 0 {
			c.state = chunkDataCR
		}
		return n, true, nil
	}
	for n < len(p) && c.state != chunkData && c.state != chunkDone {
		if err := c.framing(p[n]); err != nil {
			return n, false, err
		}
		if c.blank && c.state == chunkExt && p[n] != ';' {
			p[n] = 'x' // a token, whatever is around it
		}
		n++
	}
	return n, false, nil
}

// framing takes one byte that is not payload.
func (c *chunks) framing(b byte) error {
	switch c.state {
	case chunkSize, chunkExt:
		return c.sizeLine(b)
	case chunkSizeLF:
		if b != '\n' {
			return malformed("bad chunk size")
		}
		c.state = chunkData
		if c.left == 0 {
			c.state = chunkTrailers
		}
		c.digits, c.line = 0, 0
	case chunkDataCR:
		if b != '\r' {
			return malformed("chunk is longer than its size")
		}
		c.state = chunkDataLF
	case chunkDataLF:
		if b != '\n' {
			return malformed("chunk is longer than its size")
		}
		c.state = chunkSize
	case chunkTrailers:
		return c.trailer(b)
	}
	return nil
}

func (c *chunks) sizeLine(b byte) error {
	if c.line++; c.line > maxChunkLine {
		return malformed("chunk extension is too long")
	}
	if c.state == chunkSize {
		d := hexDigit(b)
		if d >= 0 {
			// 15 digits keep the sum below 2^60; more is an attack or a fault.
			if c.digits++; c.digits > 15 {
				return malformed("bad chunk size")
			}
			c.left = c.left<<4 | int64(d)
			return nil
		}
		if c.digits == 0 {
			return malformed("bad chunk size")
		}
		switch b {
		case '\r':
			c.state = chunkSizeLF
		case ';':
			c.state = chunkExt
		default:
			return malformed("bad chunk size")
		}
		return nil
	}
	if b == '\r' {
		c.state = chunkSizeLF
		return nil
	}
	if classes[b]&charValue == 0 {
		return malformed("bad chunk extension")
	}
	return nil
}

func hexDigit(b byte) int {
	switch {
	case b >= '0' && b <= '9':
		return int(b - '0')
	case b >= 'a' && b <= 'f':
		return int(b-'a') + 10
	case b >= 'A' && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}

// trailer takes one byte of the trailer section, which ends with an empty line.
func (c *chunks) trailer(b byte) error {
	if len(c.trailers) == maxTrailers {
		return malformed("trailer section is too long")
	}
	n := len(c.trailers)
	if b == '\n' && (n == 0 || c.trailers[n-1] != '\r') {
		return malformed("line does not end with CRLF")
	}
	c.trailers = append(c.trailers, b)
	n++
	if b != '\n' || (n != 2 && (n < 4 || c.trailers[n-3] != '\n')) {
		return nil
	}
	var room [16]field
	fields, err := parseFields(room[:0], c.trailers, 0, n-2, 64)
	if err != nil {
		return err
	}
	for i := range fields {
		// RFC 9110 section 6.5.1: framing, routing and authentication do not
		// belong here; a reader that merges trailers would act on them.
		name := fields[i].name(c.trailers)
		if id := fields[i].id; (id != fieldOther && id != fieldContentType) || equalFold(name, "authorization") {
			return malformed("forbidden trailer field")
		}
	}
	c.state = chunkDone
	return nil
}

// bodyKind is how the end of a body is known.
type bodyKind uint8

const (
	bodyNone bodyKind = iota
	bodyLength
	bodyChunked
	bodyUntilClose
)

// framing follows one body.
type framing struct {
	kind   bodyKind
	left   int64
	chunks chunks
}

func (f *framing) done() bool {
	switch f.kind {
	case bodyLength:
		return f.left == 0
	case bodyChunked:
		return f.chunks.state == chunkDone
	case bodyUntilClose:
		return false
	}
	return true
}

// step takes the next run of the body off p; what lies behind the body is not
// touched, so that n < len(p) with done() true means more messages follow.
func (f *framing) step(p []byte) (n int, data bool, err error) {
	switch f.kind {
	case bodyLength:
		n = int(min(int64(len(p)), f.left))
		f.left -= int64(n)
		return n, true, nil
	case bodyChunked:
		return f.chunks.step(p)
	case bodyUntilClose:
		return len(p), true, nil
	}
	return 0, false, nil
}

// take follows the body through p and returns how many bytes belong to it.
func (f *framing) take(p []byte) (int, error) {
	at := 0
	for at < len(p) && !f.done() {
		n, _, err := f.step(p[at:])
		if err != nil {
			return at, err
		}
		at += n
	}
	return at, nil
}
