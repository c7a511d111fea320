package exchange

import (
	"errors"
	"io"
	"sync"
)

// Sizes of the pooled blocks. A connection starts with 4 KiB and moves up only when
// what it holds does not fit or a read fills it, and down to the smallest, which takes
// most models' events, while it waits for the next one.
const (
	block1k   = 1 << 10
	block4k   = 4 << 10
	block16k  = 16 << 10
	block64k  = 64 << 10
	block256k = 256 << 10
)

var errBufferFull = errors.New("buffer is full")

// blocks lends byte blocks of five sizes. A block may hold a credential: whoever
// wrote one there clears it before giving the block back.
type blocks struct {
	p1, p4, p16, p64, p256 sync.Pool
}

// get lends a block of at least n bytes; n above 256 KiB is a programming error.
func (p *blocks) get(n int) []byte {
	switch {
	case n <= block1k:
		if b, ok := p.p1.Get().(*[block1k]byte); ok {
			return b[:]
		}
		return make([]byte, block1k)
	case n <= block4k:
		if b, ok := p.p4.Get().(*[block4k]byte); ok {
			return b[:]
		}
		return make([]byte, block4k)
	case n <= block16k:
		if b, ok := p.p16.Get().(*[block16k]byte); ok {
			return b[:]
		}
		return make([]byte, block16k)
	case n <= block64k:
		if b, ok := p.p64.Get().(*[block64k]byte); ok {
			return b[:]
		}
		return make([]byte, block64k)
	}
	if b, ok := p.p256.Get().(*[block256k]byte); ok {
		return b[:]
	}
	return make([]byte, block256k)
}

// put takes a block back. Converting to an array pointer keeps the pool free of
// an allocation for the slice header.
func (p *blocks) put(b []byte) {
	switch cap(b) {
	case block1k:
		p.p1.Put((*[block1k]byte)(b[:block1k]))
	case block4k:
		p.p4.Put((*[block4k]byte)(b[:block4k]))
	case block16k:
		p.p16.Put((*[block16k]byte)(b[:block16k]))
	case block64k:
		p.p64.Put((*[block64k]byte)(b[:block64k]))
	case block256k:
		p.p256.Put((*[block256k]byte)(b[:block256k]))
	}
}

// buffer is what has been read from one connection and not been used yet:
// b[r:w]. It holds no block while it is empty and released.
type buffer struct {
	pool *blocks
	b    []byte
	r, w int
}

func (b *buffer) bytes() []byte { return b.b[b.r:b.w] }
func (b *buffer) len() int      { return b.w - b.r }

// fill reads once from src behind what is there. It grows up to limit bytes in
// all and then reports errBufferFull.
func (b *buffer) fill(src io.Reader, limit int) (int, error) {
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
	if b.w == len(b.b) && !b.room(limit) {
		return 0, errBufferFull
	}
	n, err := src.Read(b.b[b.w:])
	b.w += n
	if n > 0 {
		// The data counts first; a lasting error comes again with the next read.
		return n, nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return 0, err
}

// room makes space behind w: by moving what is there to the front, or into the
// next larger block.
func (b *buffer) room(limit int) bool {
	if b.r > 0 {
		copy(b.b, b.b[b.r:b.w])
		b.r, b.w = 0, b.w-b.r
		return true
	}
	size := block4k
	if len(b.b) > 0 {
		size = len(b.b) * 4
	}
	if size > block256k || (len(b.b) > 0 && len(b.b) >= limit) {
		return false
	}
	next := b.pool.get(size)
	copy(next, b.b[:b.w])
	if b.b != nil {
		b.pool.put(b.b)
	}
	b.b = next
	return true
}

// widen moves an empty buffer whose last read filled it to a block that takes a
// whole TLS record.
func (b *buffer) widen() {
	if b.r == b.w && b.w == len(b.b) && len(b.b) < block16k {
		b.drop()
		b.b = b.pool.get(block16k)
	}
}

// narrow moves an empty buffer whose last read was a short one to the smallest block:
// what waits for an event may wait for hours. One that was widened stays as it is: of a
// long body, too, a read may be short, and small ones after it would make it cost three times as much.
func (b *buffer) narrow() {
	if b.r == b.w && b.w < block1k && len(b.b) == block4k {
		b.drop()
		b.b = b.pool.get(block1k)
	}
}

// release gives the block back if nothing is left in it.
func (b *buffer) release() {
	if b.r == b.w && b.b != nil {
		b.pool.put(b.b)
		b.b, b.r, b.w = nil, 0, 0
	}
}

// drop forgets what is there and gives the block back.
func (b *buffer) drop() {
	b.r, b.w = 0, 0
	b.release()
}
