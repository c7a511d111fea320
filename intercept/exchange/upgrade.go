package exchange

import (
	"crypto/tls"
	"io"
	"net"
	"time"
)

// upgrade passes a 101 on and then the bytes of both directions, until both have
// ended. Either side may be half closed; the credential was in the head only.
func (cl *client) upgrade(up *upstreamConn) {
	x := cl.x
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
	block := x.blocks.get(min(len(cl.resp.raw)+64, block256k))
	_, err := cl.tls.Write(appendResponse(block[:0], &cl.resp, &cl.req, true))
	x.blocks.put(block)
	if err == nil {
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			x.relay(up.tls, up.raw, cl.tls, cl.raw, &cl.in)
		}()
		x.relay(cl.tls, cl.raw, up.tls, up.raw, &up.in)
		<-sent
	}
	cl.lose(up)
}

// relay copies src to dst, what was read ahead first. The end of src closes dst's
// sending side; a failure closes both, which ends the other direction too.
func (x *Exchanger) relay(dst *tls.Conn, dstRaw *net.TCPConn, src *tls.Conn, srcRaw *net.TCPConn, ahead *buffer) {
	for {
		if p := ahead.bytes(); len(p) > 0 {
			ahead.r = ahead.w
			if _, err := dst.Write(p); err != nil {
				break
			}
			ahead.widen()
		}
		_, err := ahead.fill(src, block16k)
		if err == io.EOF {
			if dst.CloseWrite() != nil || dstRaw.CloseWrite() != nil {
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
