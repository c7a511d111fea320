package exchange

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// upload is a request's body: what was read of it, kept for sending it again,
// and how much is still to come. The bytes that came with the head stay where
// they are; more is kept in pooled blocks, of which none is ever moved.
type upload struct {
	framing framing
	first   []byte // in the client's buffer, behind the head
	lost    atomic.Bool
	whole   bool   // nothing may be lost: none of it is sent yet
	over    []byte // read behind the body's end: the next request

	share  *Share     // of whose target it is
	mu     sync.Mutex // of these three: letGo changes them while the pump is at work
	blocks [][]byte   // each full to its length
	kept   int64      // bytes in blocks, counted against the budget
	pump   pumpState

	// The pump is the goroutine that sends a body while its answer comes in.
	// Between start and done the fields above are its own.
	done    chan struct{}
	sendErr error // writing upstream failed
	readErr error // reading from the client failed, or what it sent is malformed
	stopped bool  // given up while incomplete
}

// pumpState says which blocks the pump may be at.
type pumpState uint8

const (
	pumpOff     pumpState = iota
	pumpResends           // any of them
	pumpReads             // the last
)

// syncLimit is how long a body may be and still be sent without a pump: it fits
// into the sockets' buffers, so writing it cannot wait for an upstream that
// answers before it reads. syncWait is how long its bytes are waited for.
const (
	syncLimit = 128 << 10
	syncWait  = 20 * time.Millisecond
)

var errClientGone = errors.New("client hung up")

// beginBody takes the body's part out of the client's buffer.
func (cl *client) beginBody() error {
	b, h := &cl.body, &cl.req
	b.framing = framing{}
	b.sendErr, b.readErr, b.stopped, b.done, b.over = nil, nil, false, nil, nil
	b.lost.Store(false)
	switch {
	case h.chunked:
		b.framing.kind = bodyChunked
	case h.length > 0:
		b.framing.kind, b.framing.left = bodyLength, h.length
	}
	rest := cl.in.bytes()
	n, err := b.framing.take(rest)
	b.first = rest[:n]
	cl.in.r += n
	return err
}

// complete tells whether all of the body was read.
func (b *upload) complete() bool { return b.framing.done() }

// replayable tells whether the request can be sent again: all that was read of
// its body is still there.
func (b *upload) replayable() bool { return !b.lost.Load() && b.readErr == nil }

// receive reads from the client once and returns the new bytes of the body. They
// are kept if the limits allow it.
func (cl *client) receive() ([]byte, error) {
	b := &cl.body
	room, err := b.room(cl.x)
	if err != nil {
		return nil, err
	}
	n, err := cl.tls.Read(room)
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return nil, err
	}
	used, err := b.framing.take(room[:n])
	b.mu.Lock()
	last := &b.blocks[len(b.blocks)-1]
	*last = (*last)[:len(*last)+used]
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if used < n {
		b.over = append(b.over, room[used:n]...)
	}
	return room[:used], nil
}

// room is where the next bytes are read to: behind the last block's.
func (b *upload) room(x *Exchanger) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.blocks); n == 0 || len(b.blocks[n-1]) == cap(b.blocks[n-1]) {
		size := block64k
		if b.framing.kind == bodyLength && b.framing.left <= block16k {
			size = block16k
		}
		if !b.lost.Load() && (b.kept+int64(size) > x.opts.MaxReplayBody || !x.reserve(b.share, int64(size))) {
			if b.whole {
				return nil, errKeepFull
			}
			b.lost.Store(true)
			b.forget(x)
		}
		if b.lost.Load() && len(b.blocks) == 1 {
			b.blocks[0] = b.blocks[0][:0]
		} else {
			block := x.blocks.get(size)
			b.blocks = append(b.blocks, block[:0])
			if !b.lost.Load() {
				b.kept += int64(cap(block))
			}
		}
	}
	last := &b.blocks[len(b.blocks)-1]
	if b.lost.Load() {
		*last = (*last)[:0]
	}
	room := (*last)[len(*last):cap(*last)]
	if b.framing.kind == bodyLength && int64(len(room)) > b.framing.left {
		room = room[:b.framing.left]
	}
	return room, nil
}

// Share is what one target has of the memory that all have together: for requests that are kept for replay, and for answers
// that are not read. Its zero value is ready.
type Share struct{ kept, unread atomic.Int64 }

// take takes n bytes out of a budget, of which own is a target's part. The last quarter of it is for targets that have no more than a
// sixteenth: one that has much, and does not end it, leaves the others room for theirs.
func take(all, own *atomic.Int64, n, budget int64) bool {
	if a, o := all.Add(n), own.Add(n); a > budget || a > budget-budget/4 && o > budget/16 {
		give(all, own, n)
		return false
	}
	return true
}

func give(all, own *atomic.Int64, n int64) {
	own.Add(-n)
	all.Add(-n)
}

// reserve takes n bytes out of the budget for replay.
func (x *Exchanger) reserve(s *Share, n int64) bool {
	return take(&x.budget, &s.kept, n, x.opts.ReplayBudget)
}

func (x *Exchanger) release(s *Share, n int64) { give(&x.budget, &s.kept, n) }

// forgetBut gives the blocks back, but for the last keep of them, which count no
// longer. mu is held.
func (b *upload) forgetBut(x *Exchanger, keep int) {
	n := max(len(b.blocks)-keep, 0)
	for _, block := range b.blocks[:n] {
		x.blocks.put(block)
	}
	m := copy(b.blocks, b.blocks[n:])
	clear(b.blocks[m:])
	b.blocks = b.blocks[:m]
	x.release(b.share, b.kept)
	b.kept = 0
}

// forget gives all of them back. mu is held.
func (b *upload) forget(x *Exchanger) { b.forgetBut(x, 0) }

// letGo gives back what was kept for sending the request again: its answer is
// about to be passed on, so that it will not be, and may take hours.
func (b *upload) letGo(x *Exchanger) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost.Store(true)
	b.settle(x)
}

// settle gives back what nobody needs any more of a body that is not kept. mu is held.
func (b *upload) settle(x *Exchanger) {
	switch {
	case !b.lost.Load() || b.pump == pumpResends:
	case b.pump == pumpReads:
		b.forgetBut(x, 1)
	default:
		b.forget(x)
	}
}

// pumpIs says what the pump does from now on.
func (b *upload) pumpIs(x *Exchanger, s pumpState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pump = s
	b.settle(x)
}

// discard ends the body. What was read behind it goes back to the client's
// buffer by itself: see endBody.
func (b *upload) discard(x *Exchanger) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(x)
	b.first = nil
}

// endBody makes the connection ready for its next request, which may have come
// with the body's last bytes.
func (cl *client) endBody() {
	b := &cl.body
	if len(b.over) > 0 {
		for len(cl.in.b)-cl.in.w < len(b.over) && cl.in.room(block256k) {
		}
		cl.in.w += copy(cl.in.b[cl.in.w:], b.over)
		b.over = nil
	}
	b.discard(cl.x)
}

// sendBody sends what the head's write did not carry: sent bytes of first are
// out already. It starts the pump if that could take long.
func (cl *client) sendBody(up *upstreamConn, sent int) error {
	b := &cl.body
	if len(b.first) > sent {
		if _, err := up.tls.Write(b.first[sent:]); err != nil {
			return err
		}
	}
	if b.complete() && b.kept <= syncLimit {
		return cl.resend(up)
	}
	if b.framing.kind == bodyLength && !cl.req.expect && b.kept+b.framing.left <= syncLimit {
		if err := cl.resend(up); err != nil {
			return err
		}
		return cl.sendWaiting(up)
	}
	cl.startPump(up, true)
	return nil
}

// resend writes what is kept in blocks.
func (cl *client) resend(up *upstreamConn) error {
	for _, block := range cl.body.blocks {
		if len(block) == 0 {
			continue
		}
		if _, err := up.tls.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// sendWaiting reads and sends a short body that is on its way already, without
// a goroutine for it; a client that hesitates gets the pump after all.
func (cl *client) sendWaiting(up *upstreamConn) error {
	b := &cl.body
	for !b.complete() {
		cl.setReadBy(time.Now(), syncWait)
		p, err := cl.receive()
		if err != nil && isTimeout(err) && !cl.isGone() {
			cl.startPump(up, false)
			return nil
		}
		if err != nil {
			b.readErr = err
			return err
		}
		if _, err := up.tls.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// startPump sends the rest of the body, with all that is kept first if again is
// set, while the caller reads the answer.
func (cl *client) startPump(up *upstreamConn, again bool) {
	b := &cl.body
	cl.setReadBy(time.Time{}, 0)
	b.done = make(chan struct{})
	b.sendErr, b.readErr, b.stopped = nil, nil, false
	b.pump = pumpReads
	if again {
		b.pump = pumpResends
	}
	go func(done chan struct{}) {
		defer close(done)
		defer b.pumpIs(cl.x, pumpOff)
		if again {
			if b.sendErr = cl.resend(up); b.sendErr != nil {
				return
			}
			b.pumpIs(cl.x, pumpReads)
		}
		for !b.complete() {
			p, err := cl.receive()
			if err != nil {
				b.readErr = err
				cl.bodyFailed()
				return
			}
			if _, err := up.tls.Write(p); err != nil {
				b.sendErr = err
				return
			}
		}
	}(b.done)
}

// pumping tells whether the pump is still at work.
func (b *upload) pumping() bool {
	if b.done == nil {
		return false
	}
	select {
	case <-b.done:
		b.done = nil
		return false
	default:
		return true
	}
}

// stopPump ends the pump. Unless it had finished, up is of no more use.
func (cl *client) stopPump(up *upstreamConn) {
	b := &cl.body
	if !b.pumping() {
		return
	}
	_ = up.raw.SetWriteDeadline(past)
	cl.readBy = past
	_ = cl.raw.SetReadDeadline(past)
	<-b.done
	b.done = nil
	if b.complete() {
		_ = up.raw.SetWriteDeadline(time.Time{})
	} else {
		b.stopped = true
		if b.readErr != nil && isTimeout(b.readErr) {
			b.readErr = nil
			cl.bodyMended()
		}
	}
	if !cl.isGone() {
		cl.setReadBy(time.Time{}, 0)
	}
}

// waitPump lets the pump finish after the answer is out, for a while.
func (cl *client) waitPump(up *upstreamConn) {
	b := &cl.body
	if !b.pumping() {
		return
	}
	t := time.NewTimer(cl.x.opts.LingerTimeout)
	defer t.Stop()
	select {
	case <-b.done:
		b.done = nil
	case <-cl.ctx.Done():
		cl.stopPump(up)
	case <-t.C:
		cl.stopPump(up)
	}
}

// drainBody reads and forgets the rest of a body whose answer is out. It gives
// up at a bound; closing at once could destroy the answer on its way.
func (cl *client) drainBody() bool {
	b := &cl.body
	b.letGo(cl.x)
	cl.setReadBy(time.Now(), cl.x.opts.LingerTimeout)
	for total := 0; !b.complete(); {
		p, err := cl.receive()
		if err != nil {
			return false
		}
		if total += len(p); total > block256k {
			return false
		}
	}
	return true
}
