package exchange

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// serveH1 carries one request after the other on the connection's goroutine.
func (cl *client) serveH1() {
	for cl.serveRequest() {
	}
}

// serveRequest reads and answers one request. It reports whether the connection
// stays open; if not, the end has been told to the client already.
func (cl *client) serveRequest() bool {
	x := cl.x
	raw, err := cl.readHead()
	if err != nil {
		if r, ok := errors.AsType[*rejection](err); ok {
			x.counts.rejected.Add(1)
			cl.sayLast(plainAnswer(r.status, r.reason))
		}
		cl.farewell()
		return false
	}
	x.counts.requests.Add(1)
	denied, err := cl.understand(raw)
	if err != nil || denied != nil {
		answer := plainAnswer(421, "the request names another host than its connection")
		if err != nil {
			answer = x.failure(cl.route.Host, err)
		} else {
			x.deny(cl.upstream, cl.route, denied, "Host names another host than the connection")
		}
		cl.sayLast(answer)
		cl.farewell()
		return false
	}
	keep := cl.exchange()
	cl.endBody()
	if keep {
		return true
	}
	if cl.isGone() {
		x.counts.canceled.Add(1)
	}
	return false
}

// readHead reads up to the end of a request's head. The time before its first
// byte is idle time.
func (cl *client) readHead() ([]byte, error) {
	x, in := cl.x, &cl.in
	for in.len() >= 2 && in.b[in.r] == '\r' && in.b[in.r+1] == '\n' {
		in.r += 2 // RFC 9112 section 2.2: an empty line before a request is ignored
	}
	for seen, skipped := 0, 0; ; {
		if in.len() > 0 {
			n, err := headEnd(in.bytes(), seen)
			if err != nil {
				return nil, err
			}
			if n > x.opts.MaxHead || (n == 0 && in.len() >= x.opts.MaxHead) {
				return nil, &rejection{431, "header is too large"}
			}
			if n > 0 {
				raw := in.b[in.r : in.r+n]
				in.r += n
				return raw, nil
			}
			if seen == 0 {
				cl.setReadBy(time.Now(), x.opts.HeadTimeout)
			}
			seen = in.len()
		} else {
			cl.awaitRequest()
		}
		_, err := in.fill(cl.tls, block256k)
		cl.requestCame()
		if err != nil {
			if in.len() == 0 && isTimeout(err) && x.draining.Load() && cl.unread() {
				continue
			}
			if in.len() > 0 && isTimeout(err) {
				x.counts.headsTimedOut.Add(1)
				return nil, &rejection{408, "the request's header did not come in time"}
			}
			return nil, err
		}
		if seen == 0 && in.len() >= 2 && in.b[in.r] == '\r' && in.b[in.r+1] == '\n' && skipped < 4 {
			in.r += 2
			skipped++
		}
	}
}

// understand parses and checks a request. denied is the name of another host.
func (cl *client) understand(raw []byte) (denied []byte, err error) {
	if err := cl.req.parseRequest(raw, cl.x.opts.MaxFields); err != nil {
		return nil, err
	}
	denied, err = checkTarget(&cl.req, cl.route.Host, cl.upstream.Port)
	if denied != nil || err != nil {
		return denied, err
	}
	return nil, cl.beginBody()
}

// exchange sends the request until an answer is one to pass on, and passes it on.
func (cl *client) exchange() (keep bool) {
	x := cl.x
	began := time.Now()
	cl.ahead = 0
	a := attempts{x: x, route: cl.route, tried: cl.tried[:0]}
	a.ask(cl.req.methodBytes(), cl.req.targetBytes())
	defer func() {
		clear(cl.tried[:])
		cl.detach()
	}()
	if answer, err := cl.answerTokens(&a); err != nil {
		return cl.sendFailed(err)
	} else if answer != nil {
		return cl.sayInstead(*answer)
	}
	if answer := cl.declined(); answer != nil {
		return cl.sayInstead(*answer)
	}
	if err := cl.findTie(&a); err != nil {
		return cl.sendFailed(err)
	}
	began = began.Add(cl.ahead) // the client's time: its body was waited for
	cl.ahead = 0
	if err := a.first(cl.ctx); err != nil {
		return cl.sayInstead(x.failure(cl.route.Host, err))
	}
	for {
		sent := time.Now()
		up, err := cl.send(&a.lease)
		began = began.Add(time.Since(sent)) // that was the upstream's time
		if err != nil {
			return cl.sendFailed(err)
		}
		switch v, exhausted := cl.judge(up, &a); v {
		case verdictAgain:
			cl.settle(up)
		case verdictExhausted:
			cl.settle(up)
			return cl.sayInstead(x.failure(cl.route.Host, exhausted))
		default:
			if answer := cl.withhold(up, &a); answer != nil {
				cl.settle(up)
				return cl.sayInstead(*answer)
			}
			x.added.observe(time.Since(began) - cl.ahead)
			cl.body.letGo(x)
			if cl.resp.status == 101 {
				judged := a // on the heap, for what listens to messages; a, which every request has, stays off it
				cl.upgrade(up, &judged)
				return false
			}
			return cl.deliver(up, &a)
		}
	}
}

// sendFailed answers a request that got no answer.
func (cl *client) sendFailed(err error) bool {
	if cl.isGone() || errors.Is(err, errClientGone) {
		return false
	}
	if read := cl.body.readErr; read != nil {
		r, ok := errors.AsType[*rejection](read)
		if !ok {
			return false // the client's connection failed, there is no one to answer
		}
		err = r
	}
	return cl.sayInstead(cl.x.failure(cl.route.Host, err))
}

// send makes one attempt: request out, head of the final response in. An idle
// connection that turns out to be dead before its first byte of an answer is
// replaced by a fresh one, once (RFC 9112 section 9.3.1), if the request may be sent
// twice or certainly was not received (RFC 9110 section 9.2.2).
func (cl *client) send(l *pool.Lease) (*upstreamConn, error) {
	for fresh := false; ; fresh = true {
		up, reused, err := cl.connection(fresh)
		if err != nil {
			return nil, err
		}
		err = cl.try(up, l)
		if err == nil {
			return up, nil
		}
		cl.stopPump(up)
		answered := up.in.len() > 0
		cl.detach()
		up.close()
		if !reused || answered || isTimeout(err) || cl.isGone() || !cl.body.replayable() ||
			(up.began && !cl.req.repeatable()) {
			return nil, err
		}
		if _, ok := errors.AsType[*rejection](err); ok {
			return nil, err
		}
		cl.x.counts.retries.Add(1)
	}
}

// connection takes an idle connection or opens one.
func (cl *client) connection(fresh bool) (up *upstreamConn, reused bool, err error) {
	x := cl.x
	if err := cl.failed; err != nil {
		cl.failed = nil // the next request tries again
		return nil, false, err
	}
	if !fresh {
		if up := x.idle.take(cl.upstream.key(), time.Now()); up != nil {
			if !up.fresh {
				x.counts.reused.Add(1)
			}
			return up, true, nil // one that was opened ahead has waited, too
		}
	}
	conn, err := x.dialTLS(cl.ctx, cl.upstream, []string{protoH1})
	if err != nil {
		return nil, false, err
	}
	return x.newUpstreamConn(cl.upstream, conn), false, nil
}

// try writes the request and reads up to the end of the final response's head.
func (cl *client) try(up *upstreamConn, l *pool.Lease) error {
	if !cl.attach(up, time.Now().Add(cl.x.opts.ResponseTimeout)) {
		return errClientGone
	}
	up.fresh = false
	wrote := cl.writeRequest(up, l)
	if wrote != nil && cl.body.readErr != nil {
		return wrote
	}
	// Failing to write is no reason not to read: the upstream may have answered
	// early and closed.
	for {
		if err := cl.readResponse(up); err != nil {
			if wrote != nil {
				return wrote
			}
			return err
		}
		h := &cl.resp
		if h.status >= 200 || (h.status == 101 && cl.req.upgrade) {
			cl.keepFor = h.keepAliveTimeout(cl.x.opts.UpstreamIdle)
			return nil
		}
		if h.status == 101 {
			return badResponse(malformed("protocol switched without having been asked"))
		}
		if cl.req.minor > 0 {
			if err := cl.passInterim(l); err != nil {
				return errClientGone
			}
		}
	}
}

// writeRequest sends the head, and with it in one write what is at hand of a
// short body. The block holds the credential, so it is cleared.
func (cl *client) writeRequest(up *upstreamConn, l *pool.Lease) error {
	x, b := cl.x, &cl.body
	size := requestSize(&cl.req, l)
	with := 0
	if size+len(b.first) <= block16k {
		with = len(b.first)
	}
	var block []byte
	if size+with <= block256k {
		block = x.blocks.get(size + with)
	}
	out := appendRequest(block[:0], &cl.req, l)
	out = append(out, b.first[:with]...)
	n, err := up.tls.Write(out)
	up.began = n > 0
	clear(out)
	x.blocks.put(block)
	if err != nil {
		return err
	}
	if with == len(b.first) && b.complete() && len(b.blocks) == 0 {
		return nil
	}
	return cl.sendBody(up, with)
}

// readResponse reads and parses one response head.
func (cl *client) readResponse(up *upstreamConn) error {
	in, limit := &up.in, cl.x.opts.MaxHead
	for seen := 0; ; {
		n, err := headEnd(in.bytes(), seen)
		if err == nil && (n > limit || (n == 0 && in.len() >= limit)) {
			err = malformed("header is too large")
		}
		if err == nil && n > 0 {
			raw := in.b[in.r : in.r+n]
			in.r += n
			err = cl.resp.parseResponse(raw, cl.x.opts.MaxFields)
			if err == nil {
				return nil
			}
		}
		if err != nil {
			return badResponse(err)
		}
		seen = in.len()
		if _, err := in.fill(up.tls, block256k); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// badResponse makes of a parser's complaint one about the upstream.
func badResponse(err error) error {
	if r, ok := errors.AsType[*rejection](err); ok {
		return &rejection{502, "malformed response: " + r.reason}
	}
	return err
}

// passInterim sends a 1xx on.
func (cl *client) passInterim(l *pool.Lease) error {
	if err := cl.cleanHead(l); err != nil {
		return err
	}
	block := cl.x.blocks.get(min(len(cl.resp.raw)+64, block256k))
	out := appendResponse(block[:0], &cl.resp, &cl.req, true)
	_, err := cl.tls.Write(out)
	cl.x.blocks.put(block)
	return err
}

// judge has the answer judged and decides what becomes of it.
func (cl *client) judge(up *upstreamConn, a *attempts) (verdict, *pool.ExhaustedError) {
	h := &cl.resp
	answer := pool.Answer{Status: h.status, At: time.Now(), Aside: a.route.Aside}
	switch {
	case h.status >= 400:
		answer.Header = h.header()
		if pool.NeedsBody(h.status) {
			answer.Body = cl.answerBody(up)
		}
	case cl.route.Provider != "" && h.status == 200 && cl.body.replayable():
		if status, said, refused := cl.refusedAtFirst(up); refused {
			answer.Status, answer.Body, answer.Header = status, said, h.header()
		}
	}
	refreshed := a.refresh(cl.ctx, answer)
	refused := !refreshed && a.observe(cl.ctx, answer)
	strange := !refreshed && !refused && a.strange(answer.Status)
	if !refreshed && !refused && !strange {
		return verdictPass, nil
	}
	if !cl.body.lost.Load() {
		cl.stopPump(up)
	}
	again := !cl.body.lost.Load() && cl.body.replayable() && !cl.isGone()
	switch {
	case refreshed:
		return a.afterRefresh(again), nil
	case strange:
		return a.afterStandIn(cl.ctx, again)
	}
	if !again {
		cl.x.counts.notReplayable.Add(1)
		return a.passRefusal(), nil
	}
	return a.next(cl.ctx)
}

// header copies a head's fields into the form that the pool reads.
func (h *head) header() http.Header {
	m := make(http.Header, len(h.fields))
	for i := range h.fields {
		f := &h.fields[i]
		name := textproto.CanonicalMIMEHeaderKey(string(f.name(h.raw)))
		m[name] = append(m[name], string(f.val(h.raw)))
	}
	return m
}

// responseFraming tells how the body's end is known (RFC 9112 section 6.3).
func responseFraming(h, req *head) framing {
	switch {
	case h.status < 200 || h.status == 204 || h.status == 304 || string(req.methodBytes()) == "HEAD":
		return framing{}
	case h.chunked:
		return framing{kind: bodyChunked}
	case h.length >= 0:
		return framing{kind: bodyLength, left: h.length}
	}
	return framing{kind: bodyUntilClose}
}

// appendResponse writes the head that the client gets: the upstream's, without
// the fields that end at this hop.
func appendResponse(dst []byte, h, req *head, keep bool) []byte {
	raw := h.raw
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, raw[9:h.lineEnd]...)
	length := false
	for i := range h.fields {
		f := &h.fields[i]
		if f.id != fieldOther {
			if h.hopByHop(f) || (f.id == fieldTransferEncoding && req.minor == 0) || (f.id == fieldContentLength && length) {
				continue
			}
			length = length || f.id == fieldContentLength
		} else if h.listed && h.hopByHop(f) {
			continue
		}
		dst = append(dst, raw[f.line:f.end]...)
	}
	switch {
	case h.status < 200 && h.status != 101:
	case h.upgrade && keep:
		dst = append(dst, "Connection: Upgrade\r\n"...)
	case h.upgrade:
		dst = append(dst, "Connection: Upgrade, close\r\n"...)
	case !keep:
		dst = append(dst, "Connection: close\r\n"...)
	case req.minor == 0:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// keepAliveTimeout is how long the upstream says it keeps an idle connection.
func (h *head) keepAliveTimeout(limit time.Duration) time.Duration {
	for i := range h.fields {
		if h.fields[i].id != fieldKeepAlive {
			continue
		}
		for v := h.fields[i].val(h.raw); len(v) > 0; {
			var item []byte
			item, v = listItem(v)
			name, value, _ := bytes.Cut(item, []byte("="))
			if n, ok := decimal(value); ok && equalFold(name, "timeout") && n < 1<<30 {
				// A second less than promised, so as not to meet its end half way.
				return min(limit, time.Duration(max(n-1, 0))*time.Second)
			}
		}
	}
	return limit
}
