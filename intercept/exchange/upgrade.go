package exchange

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"time"

	"github.com/sluice-proxy/sluice/pool/echo"
)

// declined answers, in the upstream's place, a request for the WebSocket that Codex and those who do
// as it does would rather make their calls in. They go on with POST after a 426, as the provider has
// it, and say so by the beta that they ask for. In a WebSocket a limit is a message in the middle of
// nothing that could be sent again, on a connection that stays with its member for an hour; in a
// request of its own each call goes to the member that it should, and on to the next one.
func (cl *client) declined() *localAnswer {
	if !cl.req.upgrade || (cl.route.Provider != "openai" && cl.route.Provider != "codex") {
		return nil
	}
	h := &cl.req
	for i := range h.fields {
		f := &h.fields[i]
		if equalFold(f.name(h.raw), "openai-beta") && bytes.Contains(f.val(h.raw), []byte("responses_websockets=")) {
			answer := plainAnswer(426, "calls in a WebSocket cannot go on with the pool's next member: use POST")
			answer.upgrade = "HTTP/1.1"
			return &answer
		}
	}
	return nil
}

// upgrade passes a 101 on and then the bytes of both directions, until both have
// ended. Either side may be half closed; the credential was in the head only.
func (cl *client) upgrade(up *upstreamConn, a *attempts) {
	x, l := cl.x, &a.lease
	x.counts.upgrades.Add(1)
	cl.stopPump(up)
	cl.mu.Lock()
	cl.half = true
	gone := cl.gone
	cl.mu.Unlock()
	if gone || !cl.body.complete() {
		cl.lose(up)
		return
	}
	cl.rearm(up, time.Time{})
	cl.setReadBy(time.Time{}, 0)
	cl.resp.upgrade = true
	if cl.cleanHead(l) != nil {
		cl.lose(up)
		return
	}
	block := x.blocks.get(min(len(cl.resp.raw)+64, block256k))
	_, err := cl.tls.Write(appendResponse(block[:0], &cl.resp, &cl.req, true))
	x.blocks.put(block)
	if err == nil {
		limits := cl.refusals(a)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			x.relay(up.tls, up.raw, cl.tls, cl.raw, &cl.in, nil, nil)
		}()
		var echoes *echo.Stream
		if l.Echo != nil {
			echoes = &cl.echo
			echoes.Begin(l.Echo)
		}
		x.relay(cl.tls, cl.raw, up.tls, up.raw, &up.in, echoes, limits)
		<-sent
		if echoes != nil && echoes.Found() > 0 {
			x.echoed(l, cl.route.Host, false)
		}
	}
	cl.lose(up)
}

// relay copies src to dst, what was read ahead first. The end of src closes dst's
// sending side; a failure closes both, which ends the other direction too. If echoes is
// not nil, it looks for secrets in what is copied: framing, of WebSocket for example, is
// not known here, so that nothing may change its length. If limits is not nil, a refusal ends
// it in the place of being passed on.
func (x *Exchanger) relay(dst *tls.Conn, dstRaw *net.TCPConn, src *tls.Conn, srcRaw *net.TCPConn, ahead *buffer, echoes *echo.Stream, limits *messages) {
	held := 0 // bytes that are looked at, but not passed on
	for room := block16k; ; {
		if p := ahead.bytes(); len(p) > held {
			n := len(p)
			if echoes != nil {
				echoes.Next(p, held, n-held)
				n = echoes.Held(n)
			}
			if limits != nil {
				whole, refused := limits.look(p)
				if refused {
					_, err := dst.Write(append(p[:whole:whole], goneMember...))
					if err != nil || dst.CloseWrite() != nil || dstRaw.CloseWrite() != nil {
						break
					}
					srcRaw.Close()
					// The other direction ends with the client's own close, which some never send.
					_ = dstRaw.SetReadDeadline(time.Now().Add(x.opts.LingerTimeout))
					return
				}
				n = min(n, whole)
				limits.passed(n)
			}
			if echoes != nil {
				echoes.Passed(n)
			}
			ahead.r += n
			held = len(p) - n
			if n > 0 {
				if _, err := dst.Write(p[:n]); err != nil {
					break
				}
			}
			ahead.widen()
		}
		if room = block16k; held > 0 {
			room = block256k
		}
		_, err := ahead.fill(src, room)
		if err == io.EOF {
			if held > 0 {
				_, err = dst.Write(ahead.bytes())
			}
			if (held > 0 && err != nil) || dst.CloseWrite() != nil || dstRaw.CloseWrite() != nil {
				break
			}
			return
		}
		if err != nil {
			break
		}
	}
	srcRaw.Close()
	dstRaw.Close()
}
