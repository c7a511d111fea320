package exchange

import (
	"io"
	"sync"

	"github.com/sluice-proxy/sluice/pool/echo"
)

// unpacker looks at a compressed body as it goes by. What the agent's decoder can make of
// the bytes that it has may be more than ours has given out, which has an output of blocks:
// so the bytes from which there may be such a rest are held back.
type unpacker struct {
	coding string
	most   int    // bytes that may be held back
	tail   uint32 // the last four bytes
	limits *later // to be read when it wants more, or has ended

	next  chan []byte
	wants chan struct{} // it has seen all it was given
	ended chan struct{}
	rest  []byte
	over  bool // there is no more
	stop  sync.Once

	// To be read when it wants more, or has ended.
	gave  bool // something, since the last call of passable
	taken int  // bytes since it gave something
	found bool
}

// newUnpacker is nil if the coding is not known. limits, which may be nil, sees what is decoded. close must be called.
func newUnpacker(m *echo.Matcher, encoding string, limits *later) *unpacker {
	if !knownCoding(encoding) {
		return nil
	}
	u := &unpacker{
		coding: coding(encoding), limits: limits, most: block64k - block16k,
		next: make(chan []byte), wants: make(chan struct{}), ended: make(chan struct{}),
	}
	if u.coding == "zstd" {
		u.most = block256k - block64k // a block of its is of 128 KiB at the most
	}
	go u.run(m)
	u.wait()
	return u
}

func (u *unpacker) run(m *echo.Matcher) {
	defer close(u.ended)
	r, done, err := decoder(u, u.coding)
	if err != nil {
		return
	}
	defer done()
	var s echo.Stream
	s.Begin(m)
	for block := make([]byte, block16k); !u.found; {
		n, err := r.Read(block)
		if n > 0 {
			u.gave, u.taken = true, 0
		}
		s.Next(block, 0, n)
		s.Passed(n)
		u.limits.see(block[:n])
		u.found = s.Found() > 0
		if err != nil {
			return
		}
	}
}

func (u *unpacker) wait() {
	select {
	case <-u.wants:
	case <-u.ended:
	}
}

// Read gives the decoder what comes next.
func (u *unpacker) Read(p []byte) (int, error) {
	if !u.more() {
		return 0, io.EOF
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	u.taken += n
	return n, nil
}

// ReadByte has inflaters take no more than they decode.
func (u *unpacker) ReadByte() (byte, error) {
	if !u.more() {
		return 0, io.EOF
	}
	c := u.rest[0]
	u.rest = u.rest[1:]
	u.taken++
	return c, nil
}

func (u *unpacker) more() bool {
	if len(u.rest) == 0 && !u.over { // some ask again
		u.wants <- struct{}{}
		var ok bool
		u.rest, ok = <-u.next
		u.over = !ok
	}
	return len(u.rest) > 0
}

// see returns when p has been looked at, as far as it can be without what follows.
func (u *unpacker) see(p []byte) {
	if len(p) == 0 {
		return
	}
	for _, c := range p[max(0, len(p)-4):] {
		u.tail = u.tail<<8 | uint32(c)
	}
	select {
	case u.next <- p:
		u.wait()
	case <-u.ended:
	}
}

// passable is how many of n bytes may be passed on, of which the first ones had been held
// back when the others came and were seen.
func (u *unpacker) passable(n, held int) int {
	gave := u.gave
	u.gave = false
	switch {
	case u.drained() || n > u.most:
		return n
	case gave:
		return held // what was decoded of those was given out with what came after them
	}
	return 0
}

// drained says whether nobody can decode more of what was seen than was looked at: the
// decoder has given something out after it took the last byte. Inflaters do so in the midst
// of a block, too, when their window is full: they have given all behind the empty
// stored block that ends what a sender flushes (RFC 1951 section 3.2.4).
func (u *unpacker) drained() bool {
	select {
	case <-u.ended:
		return true
	default:
	}
	inflates := u.coding == "gzip" || u.coding == "deflate"
	return u.taken == 0 && (!inflates || u.tail == 0x0000ffff)
}

// echoes says whether a secret was in what was seen; if that was the last of the body, in
// all of it.
func (u *unpacker) echoes(last bool) bool {
	if last {
		u.close()
	}
	return u.found
}

// close ends the decoder.
func (u *unpacker) close() {
	if u != nil {
		u.stop.Do(func() { close(u.next) })
		<-u.ended
	}
}
