package exchange

import (
	"io"
	"time"
)

// deliver passes the response on as it arrives: what one read of the upstream's socket
// gave goes out with one write, so that no event of a stream waits for the next.
func (cl *client) deliver(up *upstreamConn, a *attempts) (keep bool) {
	x, h, req, l := cl.x, &cl.resp, &cl.req, &a.lease
	f := responseFraming(h, req)
	f.chunks.blank = l.Echo != nil
	d := delivery{cl: cl, up: up, later: cl.watchLater(a), dechunk: h.chunked && req.minor == 0, chunks: f, look: f}
	d.untilClose = f.kind == bodyUntilClose || d.dechunk
	keep = !req.close && !x.draining.Load() && !d.untilClose && cl.bodyAllows()
	if l.Echo != nil {
		body, raw, found := cl.cleanBody(up, l, f, d.later)
		d.later.judge(cl.ctx)
		if cl.cleanHead(l) != nil {
			cl.lose(up)
			cl.cut(true)
			return false
		}
		switch found {
		case echoFound:
			return cl.deliverInstead(up, l, f, body, raw, keep)
		case echoUnknown:
			d.guarded = cl.guardBody(l, f, d.later)
			defer d.guarded.end()
		}
	}
	d.block = x.blocks.get(min(len(h.raw)+64+min(up.in.len(), block4k), block256k))
	d.out = appendResponse(d.block[:0], h, req, keep)
	defer func() { x.blocks.put(d.block) }()
	d.tee = cl.tee(l)
	return d.run(f, keep)
}

// delivery is a response on its way to the client.
type delivery struct {
	cl      *client
	up      *upstreamConn
	block   []byte   // of out; nil once the body streams
	out     []byte   // the head, as long as it is not out
	guarded *guard   // nil where no secret is looked for on the way
	tee     *clueTee // nil where nothing is learnt of the body
	later   *later   // nil where no refusal is looked for
	look    framing  // of what these two have seen: they see the payload only
	chunks  framing  // of what dechunk has undone
	held    int      // bytes at hand that are not to be passed on yet

	dechunk    bool // HTTP/1.0 has no chunks: the end of the connection ends the body
	untilClose bool
}

// run passes the body on, whose framing is f, and says whether the client's connection is
// of use after it.
func (d *delivery) run(f framing, keep bool) bool {
	cl, up := d.cl, d.up
	for {
		n, err := f.take(up.in.bytes()[d.held:])
		whole := f.done() && err == nil
		p, ok := d.take(d.held+n, whole)
		if !ok {
			return cl.withheld(up, len(d.out) > 0, d.untilClose)
		}
		if whole {
			d.tee.end()
			return cl.finish(up, d.out, p, keep)
		}
		if !cl.forward(d.out, p) {
			cl.lose(up)
			return false
		}
		if err == nil {
			err = d.more()
		}
		if err == io.EOF && f.kind == bodyUntilClose {
			cl.resp.close = true
			if p, ok = d.take(d.held, true); !ok {
				return cl.withheld(up, false, true)
			}
			d.tee.end()
			return cl.finish(up, nil, p, false)
		}
		if err != nil {
			d.later.end() // some break off behind what they had to say
			d.later.judge(cl.ctx)
			gone := cl.isGone()
			cl.lose(up)
			if !gone {
				cl.cut(d.untilClose)
			}
			return false
		}
	}
}

// take is what may be passed on of the n bytes at hand; last: nothing comes behind them. ok
// is false if a secret is in them that cannot be replaced.
func (d *delivery) take(n int, last bool) (p []byte, ok bool) {
	in := &d.up.in
	p = in.bytes()[:n]
	if d.guarded != nil {
		if n, ok = d.guarded.look(p, last); !ok {
			return nil, false
		}
		d.held = len(p) - n
		p = p[:n]
	}
	if d.tee != nil || d.later.plain() {
		d.look.through(p, d.see)
	}
	if last {
		d.later.end()
	}
	d.later.judge(d.cl.ctx)
	if d.dechunk {
		p = payload(&d.chunks, p)
	}
	in.r += n
	return p, true
}

// see is shown the payload before it is passed on.
func (d *delivery) see(p []byte) {
	d.tee.see(p)
	if d.later.plain() {
		d.later.see(p)
	}
}

// more waits for what comes next, the head and all that was at hand being out.
func (d *delivery) more() error {
	cl, in := d.cl, &d.up.in
	if d.block != nil {
		cl.rearm(d.up, time.Time{})
		cl.x.blocks.put(d.block)
		d.block, d.out = nil, nil
		cl.forgetHead()
	}
	in.widen()
	in.narrow()
	room := block16k
	if d.held > 0 {
		room = block256k
	}
	return d.up.fill(room)
}

// withheld ends an answer in which a secret was found that cannot be replaced.
func (cl *client) withheld(up *upstreamConn, nothingOut, untilClose bool) bool {
	cl.lose(up)
	if nothingOut {
		return cl.sayInstead(plainAnswer(502, "the answer is compressed and repeats the credential"))
	}
	cl.cut(untilClose)
	return false
}

// forgetHead gives back the memory of a request that has been sent whole: its answer
// may go on for hours. Only the head's numbers are of use from now on.
func (cl *client) forgetHead() {
	if cl.body.pumping() || !cl.body.complete() || cl.in.len() > 0 {
		return
	}
	cl.body.first = nil
	cl.req.forget()
	cl.in.release()
}

// bodyAllows tells whether the request's body leaves the connection usable for
// a next request. A client that gets an early refusal, or its final answer in
// place of a 100, may or may not send the rest of it.
func (cl *client) bodyAllows() bool {
	b := &cl.body
	early := cl.resp.status >= 400 || cl.req.expect
	if early && b.pumping() {
		// The pump may just have sent the last byte that this is the answer to.
		t := time.NewTimer(time.Millisecond)
		select {
		case <-b.done:
		case <-t.C:
		}
		t.Stop()
	}
	if b.pumping() {
		return !early
	}
	return b.complete() && !b.stopped
}

// forward writes the head, if it is not out yet, and what is at hand of the
// body; in one record if they fit.
func (cl *client) forward(out, p []byte) bool {
	if len(out) > 0 && len(out)+len(p) <= cap(out) {
		out, p = append(out, p...), nil
	}
	for _, b := range [2][]byte{out, p} {
		if len(b) == 0 {
			continue
		}
		if _, err := cl.tls.Write(b); err != nil {
			return false
		}
	}
	return true
}

// finish sends the last bytes. The upstream connection is free before them, so
// that a client which hangs up on having its answer cancels nothing.
func (cl *client) finish(up *upstreamConn, out, p []byte, keep bool) bool {
	whole := up.in.len() == 0
	if cl.body.pumping() {
		if !cl.forward(out, p) {
			cl.lose(up)
			return false
		}
		cl.waitPump(up)
		keep = keep && cl.body.complete()
		cl.giveBack(up, whole)
	} else {
		// p lies in the connection's buffer, which must outlive giveBack.
		in := up.in
		up.in = buffer{pool: in.pool}
		cl.giveBack(up, whole)
		ok := cl.forward(out, p)
		in.drop()
		if !ok {
			return false
		}
	}
	if !keep {
		if !cl.body.complete() && cl.body.readErr == nil && !cl.req.expect {
			cl.drainBody()
		}
		cl.farewell()
	}
	return keep
}

// settle ends the exchange with an upstream whose answer is not passed on. Its
// connection is of use again if the body has been read whole already.
func (cl *client) settle(up *upstreamConn) {
	cl.stopPump(up)
	f := responseFraming(&cl.resp, &cl.req)
	n, err := f.take(up.in.bytes())
	up.in.r += n
	cl.giveBack(up, err == nil && f.done() && up.in.len() == 0)
}

// giveBack puts the upstream connection into the pool if the exchange on it is
// over and clean, and closes it otherwise. whole: the response was read to its
// end and nothing behind it.
func (cl *client) giveBack(up *upstreamConn, whole bool) {
	b := &cl.body
	clean := cl.detach() && whole && !cl.resp.close && cl.keepFor > 0 &&
		b.complete() && b.sendErr == nil && b.readErr == nil && !b.stopped
	if !clean || !up.silent() {
		up.close()
		return
	}
	cl.x.idle.put(up, time.Now().Add(cl.keepFor))
}

// lose ends an exchange whose response did not get through.
func (cl *client) lose(up *upstreamConn) {
	cl.stopPump(up)
	cl.detach()
	up.close()
}

// payload takes the chunked framing out of p, in place; g has seen all before.
func payload(g *framing, p []byte) []byte {
	out := p[:0]
	for len(p) > 0 && !g.done() {
		n, data, err := g.step(p)
		if err != nil {
			break
		}
		if data {
			out = append(out, p[:n]...)
		}
		p = p[n:]
	}
	return out
}
