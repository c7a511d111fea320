package exchange

import (
	"io"
	"net/http"
	"sync"
)

// kept is the body of an HTTP/2 request, kept while it is sent so that it can be
// sent again. Each attempt reads it through a reader of its own; the library
// reads from a goroutine of its own, and an abandoned attempt may still be at it.
type kept struct {
	x     *Exchanger
	share *Share // of whose target it is
	src   io.Reader

	reading sync.Mutex // held while src is read, before mu

	mu      sync.Mutex
	blocks  [][]byte // each full to its length
	size    int64    // bytes that were read
	gone    int64    // of them, those that letGo gave up; the rest is in blocks
	held    int64    // counted against the budget
	err     error    // of src
	lost    bool     // over the limits: what is read is no longer kept
	passing bool     // the answer is passed on: only current reads, and only once
	closed  bool
	current *keptReader // the last attempt's
}

func newKept(x *Exchanger, s *Share, r *http.Request) *kept {
	return &kept{x: x, share: s, src: r.Body}
}

func (k *kept) replayable() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.lost && !k.passing && (k.err == nil || k.err == io.EOF)
}

// ended tells whether all of the body was read.
func (k *kept) ended() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err == io.EOF
}

// reader begins an attempt. The readers of earlier ones are of no more use.
func (k *kept) reader() io.ReadCloser {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = &keptReader{k: k}
	return k.current
}

// letGo gives back what is kept for a next attempt, there will be none: the answer is
// about to be passed on, which may take hours. What the last one has still to send
// stays until that has read it.
func (k *kept) letGo() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.passing = true
	if k.current == nil || k.current.at == k.size {
		k.passed()
	}
}

// passed gives the blocks back when current has read them all. mu is held.
func (k *kept) passed() {
	k.forget()
	k.gone = k.size
	if k.current != nil {
		k.current.block, k.current.offset = 0, 0
	}
}

// release gives the blocks back. The source is closed first, which wakes a
// reader that waits in it.
func (k *kept) release(src io.Closer) {
	_ = src.Close()
	k.reading.Lock()
	defer k.reading.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	k.forget()
}

// forget gives the blocks back. mu is held.
func (k *kept) forget() {
	for _, b := range k.blocks {
		k.x.blocks.put(b)
	}
	k.blocks = nil
	k.x.release(k.share, k.held)
	k.held = 0
}

type keptReader struct {
	k      *kept
	at     int64
	block  int // that at lies in
	offset int // in that block
}

func (r *keptReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	k := r.k
	// What is kept is had without src, in which an abandoned attempt may still wait.
	if n, err := r.again(p); n > 0 || err != nil {
		return n, err
	}
	k.reading.Lock()
	defer k.reading.Unlock()
	if n, err := r.again(p); n > 0 || err != nil {
		return n, err
	}
	n, err := k.src.Read(p) // mu is free: the body may pause for as long as its answer lasts
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
	if n == 0 {
		return n, err
	}
	if r == k.current && k.passing {
		k.size += int64(n)
		r.at = k.size
		k.passed()
		return n, err
	}
	k.keep(p[:n])
	r.at += int64(n)
	r.block, r.offset = len(k.blocks), 0
	if last := len(k.blocks) - 1; last >= 0 {
		r.block, r.offset = last, len(k.blocks[last])
	}
	return n, err
}

// again reads what is kept. It gives nothing and no error if src is to be read.
func (r *keptReader) again(p []byte) (int, error) {
	k := r.k
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.closed || (k.passing && r != k.current):
		return 0, http.ErrBodyReadAfterClose
	case r.at == k.size:
		return 0, k.err
	case k.lost:
		// An abandoned attempt read past the limits meanwhile: nothing may be skipped.
		return 0, io.ErrUnexpectedEOF
	}
	for r.offset == len(k.blocks[r.block]) {
		r.block, r.offset = r.block+1, 0
	}
	n := copy(p, k.blocks[r.block][r.offset:])
	r.offset += n
	r.at += int64(n)
	if k.passing && r.at == k.size {
		k.passed()
	}
	return n, nil
}

// Close ends one attempt's reading; the body stays for the next.
func (*keptReader) Close() error { return nil }

// keep stores what was read, as far as the limits allow.
func (k *kept) keep(p []byte) {
	k.size += int64(len(p))
	for len(p) > 0 && !k.lost {
		last := len(k.blocks) - 1
		if last < 0 || len(k.blocks[last]) == cap(k.blocks[last]) {
			size := block64k
			if last < 0 && len(p) <= block4k {
				size = block4k
			}
			if k.size-k.gone > k.x.opts.MaxReplayBody || !k.x.reserve(k.share, int64(size)) {
				k.lost = true
				k.forget()
				return
			}
			k.held += int64(size)
			k.blocks = append(k.blocks, k.x.blocks.get(size)[:0])
			last++
		}
		b := k.blocks[last]
		n := min(cap(b)-len(b), len(p))
		k.blocks[last] = append(b, p[:n]...)
		p = p[n:]
	}
}

// readAhead reads what can be kept before any of it is sent, and shows it to w.
func (k *kept) readAhead(w io.Writer) error {
	k.reading.Lock()
	defer k.reading.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.err == nil {
		last := len(k.blocks) - 1
		if last < 0 || len(k.blocks[last]) == cap(k.blocks[last]) {
			if k.size+block64k > k.x.opts.MaxReplayBody || !k.x.reserve(k.share, block64k) {
				return nil
			}
			k.held += block64k
			k.blocks = append(k.blocks, k.x.blocks.get(block64k)[:0])
			last++
		}
		b := k.blocks[last]
		n, err := k.src.Read(b[len(b):cap(b)])
		k.blocks[last], k.size, k.err = b[:len(b)+n], k.size+int64(n), err
		if _, werr := w.Write(b[len(b) : len(b)+n]); werr != nil {
			return werr
		}
	}
	if k.err == io.EOF {
		return nil
	}
	return k.err
}
