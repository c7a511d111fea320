package exchange

import (
	"errors"
	"strconv"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

var errHeadGrew = errors.New("the head is malformed with placeholders in it")

// cleanHead puts placeholders in the place of secrets in the response's head.
func (cl *client) cleanHead(l *pool.Lease) error {
	h := &cl.resp
	if l.Echo == nil || !l.Echo.Contains(h.raw) {
		return nil
	}
	cl.x.echoed(l, cl.route.Host, false)
	if err := h.parseResponse(l.Echo.Replace(h.raw), cl.x.opts.MaxFields); err != nil {
		return errHeadGrew
	}
	return nil
}

// cleanBody looks for secrets in a body before it is passed on, if all of it is there or is
// worth being waited for: body goes out instead of raw bytes then. limits sees what was looked at.
func (cl *client) cleanBody(up *upstreamConn, l *pool.Lease, f framing, limits *later) (body []byte, raw int, found echoState) {
	if f.kind == bodyNone {
		return nil, 0, echoClean
	}
	h := &cl.resp
	encoding, kind := coding(string(h.contentEncoding())), h.contentType()
	json := isJSON(string(kind))
	raw, whole := cl.readBody(up, f, worthWaiting(string(kind), encoding, h.length))
	if !whole {
		return nil, 0, echoUnknown
	}
	payload, behind := payloadOf(f, up.in.bytes()[:raw])
	text := payload
	if encoding != "" {
		var ok bool
		if text, ok = readable(payload, encoding); !ok {
			return nil, 0, echoUnknown
		}
	}
	limits.see(text)
	limits.end()
	var mine []own
	if json && len(l.Inject) > 1 {
		mine = ownFields(l, cl.req.value)
	}
	body, echoes, ok := cleaned(text, l, mine)
	if echoes {
		cl.x.echoed(l, cl.route.Host, false)
	}
	switch {
	case ok:
		return body, raw, echoFound
	case l.Echo.Contains(behind), encoding != "" && l.Echo.Contains(payload): // trailers, and what no decoder takes for its own
		return nil, 0, echoUnknown
	}
	return nil, 0, echoClean
}

// readBody says whether all of a body is in the buffer, and how many bytes that is there.
// It may wait for it.
func (cl *client) readBody(up *upstreamConn, f framing, wait bool) (raw int, whole bool) {
	if f.kind == bodyUntilClose {
		return 0, false
	}
	n, err := f.take(up.in.bytes())
	if whole = err == nil && f.done(); whole || err != nil || !wait {
		return n, whole
	}
	began := time.Now()
	cl.rearm(up, began.Add(cl.x.opts.AnswerTimeout))
	h := &cl.resp
	// The head stays where it is: reading on must not move it.
	base := up.in.r - len(h.raw)
	for raw = n; err == nil && !whole; {
		up.in.r = base
		_, err = up.in.fill(up.tls, block256k)
		base = up.in.r
		h.raw = up.in.b[base : base+len(h.raw)]
		up.in.r = base + len(h.raw)
		if err == nil {
			n, err = f.take(up.in.bytes()[raw:])
			raw += n
			whole = err == nil && f.done()
		}
	}
	cl.ahead += time.Since(began)
	cl.rearm(up, time.Time{})
	return raw, whole
}

// payloadOf is a whole body without its framing, of one chunk without a copy, and what is
// behind it: trailers.
func payloadOf(f framing, raw []byte) (payload, behind []byte) {
	if f.kind != bodyChunked {
		return raw, nil
	}
	behind = raw
	for rest := raw; len(rest) > 0 && !f.done(); {
		n, data, err := f.step(rest)
		if err != nil {
			break // whoever passes the body on says so
		}
		p := rest[:n:n]
		rest = rest[n:]
		if !data {
			continue
		}
		if behind = rest; payload == nil {
			payload = p
		} else {
			payload = append(payload, p...)
		}
	}
	return payload, behind
}

// deliverInstead passes the response on with another body.
func (cl *client) deliverInstead(up *upstreamConn, l *pool.Lease, f framing, body []byte, raw int, keep bool) bool {
	x, h := cl.x, &cl.resp
	if tee := cl.tee(l); tee != nil {
		f.through(up.in.bytes()[:raw], tee.see)
		tee.end()
	}
	fields := h.fields[:0]
	for i := range h.fields {
		if !describesBody(h.fields[i].name(h.raw)) {
			fields = append(fields, h.fields[i])
		}
	}
	h.fields = fields
	block := x.blocks.get(min(len(h.raw)+128, block256k))
	defer x.blocks.put(block)
	out := appendResponse(block[:0], h, &cl.req, keep)
	out = append(out[:len(out)-2], "Content-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(out, "\r\n\r\n"...)
	up.in.r += raw
	return cl.finish(up, out, body, keep)
}

// guard looks for secrets in a body as it is passed on.
type guard struct {
	cl     *client
	lease  pool.Lease
	pieces framing // over the body
	packed *unpacker
	behind int // bytes at the buffer's beginning that are looked at, but held back
	told   bool
}

func (cl *client) guardBody(l *pool.Lease, f framing, limits *later) *guard {
	g := &guard{cl: cl, lease: *l, pieces: f}
	cl.echo.Begin(l.Echo)
	if encoding := cl.resp.contentEncoding(); encoding != nil {
		g.packed = newUnpacker(l.Echo, string(encoding), limits)
	}
	return g
}

// look goes through p, the beginning of the buffer, and returns how much of that may be
// passed on: nothing is held back at the end. ok is false if no more may be. What is
// compressed is looked at as it is, too: there are trailers, and not every body is coded
// as its head says.
func (g *guard) look(p []byte, last bool) (n int, ok bool) {
	s := &g.cl.echo
	off := g.behind
	for rest := p[off:]; len(rest) > 0 && !g.pieces.done(); {
		n, data, err := g.pieces.step(rest)
		if err != nil {
			break // whoever passes the body on says so
		}
		if data && g.packed != nil {
			g.packed.see(rest[:n])
		}
		if data || g.pieces.kind == bodyChunked && g.pieces.chunks.state >= chunkTrailers {
			s.Next(p, off, n)
		}
		off += n
		rest = rest[n:]
	}
	if g.packed != nil && g.packed.echoes(last) {
		g.cl.x.echoed(&g.lease, g.cl.route.Host, true)
		return 0, false
	}
	if s.Found() > 0 && !g.told {
		g.told = true
		g.cl.x.echoed(&g.lease, g.cl.route.Host, false)
	}
	n = len(p)
	if !last {
		n = s.Held(n)
	}
	if g.packed != nil {
		n = min(n, g.packed.passable(len(p), g.behind))
	}
	s.Passed(n)
	g.behind = len(p) - n
	return n, true
}

func (g *guard) end() {
	if g != nil {
		g.packed.close()
	}
}
