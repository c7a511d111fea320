package exchange

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// localAnswer is an answer that no upstream gave.
type localAnswer struct {
	status      int
	contentType string
	body        []byte
	retryAfter  string // Retry-After, "" for none
	pool        string // Sluice-Pool, "" for none
	noStore     bool   // Cache-Control, as RFC 6749 section 5.1 demands
	upgrade     string // Upgrade, as RFC 9110 section 15.5.22 demands of a 426; "" for none
}

func plainAnswer(status int, reason string) localAnswer {
	return localAnswer{
		status:      status,
		contentType: "text/plain; charset=utf-8",
		body:        []byte("sluice: " + strings.Map(oneLine, reason) + "\n"),
	}
}

func oneLine(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// exhaustedAnswer is what an agent gets while every member is out.
func exhaustedAnswer(e *pool.ExhaustedError) localAnswer {
	contentType, body := e.Body()
	seconds := int64((e.RetryAfter + time.Second - 1) / time.Second)
	return localAnswer{
		status:      429,
		contentType: contentType,
		body:        body,
		retryAfter:  strconv.FormatInt(max(seconds, 1), 10),
		pool:        e.Pool,
	}
}

// failure turns the reason why there is no answer into the one the client gets.
func (x *Exchanger) failure(host string, err error) localAnswer {
	if exhausted, ok := errors.AsType[*pool.ExhaustedError](err); ok {
		x.counts.exhausted.Add(1)
		x.opts.Pools.Told(exhausted.Pool)
		return exhaustedAnswer(exhausted)
	}
	if r, ok := errors.AsType[*rejection](err); ok {
		x.counts.rejected.Add(1)
		return plainAnswer(r.status, r.reason)
	}
	if errors.Is(err, pool.ErrNoPool) {
		x.counts.badGateway.Add(1)
		return plainAnswer(502, "no pool is bound to "+host+" any more")
	}
	if noDescriptor(err) {
		// Nothing went out, and it is over as soon as somebody closes a file: clients try again by themselves.
		x.counts.starved.Add(1)
		answer := plainAnswer(503, "no file descriptor is left for a connection to "+host+": too many files are open; "+
			"the limit is LimitNOFILE= of sluice's unit, or ulimit -n, and that of the host fs.file-max")
		answer.retryAfter = "1"
		return answer
	}
	if isTimeout(err) {
		x.counts.gatewayTimeouts.Add(1)
		return plainAnswer(504, host+" did not answer in time: "+cause(err))
	}
	x.counts.badGateway.Add(1)
	return plainAnswer(502, "no answer from "+host+": "+cause(err))
}

// cause is an error's text without the addresses of sluice's own sockets.
func cause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		return "time-out"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// fields are the answer's own header fields.
func (a *localAnswer) fields() [][2]string {
	fields := [][2]string{
		{"Content-Type", a.contentType},
		{"Content-Length", strconv.Itoa(len(a.body))},
	}
	if a.retryAfter != "" {
		fields = append(fields, [2]string{"Retry-After", a.retryAfter})
	}
	if a.noStore {
		fields = append(fields, [2]string{"Cache-Control", "no-store"})
	}
	if a.upgrade != "" {
		fields = append(fields, [2]string{"Upgrade", a.upgrade}, [2]string{"Connection", "upgrade"})
	}
	if a.pool != "" {
		fields = append(fields, [2]string{"Sluice-Pool", a.pool})
	}
	return fields
}

// sayInstead answers in the upstream's place and keeps the connection if what is
// left of the request's body can be read away.
func (cl *client) sayInstead(answer localAnswer) bool {
	b := &cl.body
	rest := b.framing.kind == bodyLength && b.framing.left <= block256k || b.framing.kind == bodyChunked
	broken := b.readErr != nil
	keep := !broken && !cl.req.close && !cl.x.draining.Load() && (b.complete() || (rest && !cl.req.expect))
	if !cl.say(answer, keep) {
		return false
	}
	drained := !broken && !cl.req.expect && cl.drainBody()
	if keep && drained {
		return true
	}
	cl.farewell()
	return false
}

// sayLast answers and says that the connection ends.
func (cl *client) sayLast(answer localAnswer) {
	cl.req.minor = 1
	cl.say(answer, false)
}

// say writes a local answer.
func (cl *client) say(answer localAnswer, keep bool) bool {
	out := make([]byte, 0, 512+len(answer.body))
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(answer.status), 10)
	out = append(out, ' ')
	out = append(out, http.StatusText(answer.status)...)
	out = append(out, "\r\nDate: "...)
	out = time.Now().UTC().AppendFormat(out, http.TimeFormat)
	for _, f := range answer.fields() {
		out = append(out, "\r\n"...)
		out = append(out, f[0]...)
		out = append(out, ": "...)
		out = append(out, f[1]...)
	}
	switch {
	case !keep:
		out = append(out, "\r\nConnection: close"...)
	case cl.req.minor == 0:
		out = append(out, "\r\nConnection: keep-alive"...)
	}
	out = append(out, "\r\n\r\n"...)
	if cl.req.method == 0 || string(cl.req.methodBytes()) != "HEAD" {
		out = append(out, answer.body...)
	}
	_, err := cl.tls.Write(out)
	return err == nil
}

// writeLocal answers an HTTP/2 request in the upstream's place.
func (cl *client) writeLocal(w http.ResponseWriter, answer localAnswer) {
	for _, f := range answer.fields() {
		w.Header().Set(f[0], f[1])
	}
	cl.sayLastStream(w.Header())
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body)
}
