package exchange

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// ahead is a response body whose beginning is read before it is passed on, for no
// longer than there is time: what comes later is passed on all the same.
type ahead struct {
	body  io.ReadCloser
	ended chan struct{} // closed when nothing more is read ahead

	mu    sync.Mutex
	more  sync.Cond // on mu: buf, err or ended have changed
	buf   []byte
	err   error
	done  bool // nothing more is read ahead
	over  bool // nor is to be
	taken int  // of buf, passed on
}

// readAhead reads up to limit bytes of a body. Close must be called.
func readAhead(body io.ReadCloser, limit int) *ahead {
	a := &ahead{body: body, ended: make(chan struct{})}
	a.more.L = &a.mu
	go a.fill(limit)
	return a
}

func (a *ahead) fill(limit int) {
	defer close(a.ended)
	for block := make([]byte, min(limit, block4k)); ; {
		n, err := a.body.Read(block)
		a.mu.Lock()
		a.buf = append(a.buf, block[:n]...)
		a.err = err
		a.done = err != nil || a.over || len(a.buf) >= limit
		a.more.Broadcast()
		done := a.done
		a.mu.Unlock()
		if done {
			return
		}
	}
}

// wait returns the beginning once it is enough, is all there is, or the time is up.
func (a *ahead) wait(limit time.Duration, enough func([]byte) bool) []byte {
	late := false
	timer := time.AfterFunc(limit, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		late = true
		a.more.Broadcast()
	})
	defer timer.Stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.done && !late && !enough(a.buf) {
		a.more.Wait()
	}
	a.over = true
	return a.buf[:len(a.buf):len(a.buf)]
}

// whole says whether the beginning is all there is.
func (a *ahead) whole() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err == io.EOF
}

// Read passes the body on from its beginning.
func (a *ahead) Read(p []byte) (int, error) {
	a.mu.Lock()
	for a.taken == len(a.buf) && !a.done {
		a.more.Wait()
	}
	n := copy(p, a.buf[a.taken:])
	a.taken += n
	err := a.err
	out := a.taken == len(a.buf)
	a.mu.Unlock()
	switch {
	case n > 0:
		return n, nil
	case out && err != nil:
		return 0, err
	}
	return a.body.Read(p) // nothing reads ahead any more
}

// Close closes the body and waits until nothing reads it.
func (a *ahead) Close() error {
	err := a.body.Close()
	<-a.ended
	return err
}

// lookAhead reads the beginning of a body that is passed on later.
func (s *stream) lookAhead(resp *http.Response, limit time.Duration, most int, enough func([]byte) bool) []byte {
	began := time.Now()
	defer func() { s.wait += time.Since(began) }()
	body := readAhead(resp.Body, most)
	resp.Body = body
	return body.wait(limit, enough)
}

// answerBody is the beginning of a body that an answer is judged by, decoded.
func (cl *client) answerBody(up *upstreamConn) []byte {
	body := cl.lookAhead(up, cl.x.opts.AnswerTimeout, pool.MaxAnswerBody, never)
	return decodeAnswer(body, string(cl.resp.contentEncoding()))
}

func (s *stream) answerBody(resp *http.Response) []byte {
	body := s.lookAhead(resp, s.cl.x.opts.AnswerTimeout, pool.MaxAnswerBody, never)
	return decodeAnswer(body, resp.Header.Get("Content-Encoding"))
}

// opening is the beginning of an event stream, as far as it takes to find out whether the
// stream is a refusal.
type opening struct {
	first    pool.FirstEvent
	encoding string
	text     []byte // what has come, decoded
}

func (o *opening) came(raw []byte) bool {
	o.text = decode(raw, o.encoding, pool.MaxFirstEvent)
	return o.first.Came(o.text) || len(o.text) == pool.MaxFirstEvent
}

func (o *opening) refused(raw []byte) (status int, said []byte, refused bool) {
	o.came(raw)
	return pool.RefusedInStream(o.first.In(o.text))
}

// refusedAtFirst looks for a refusal in the beginning of an answer with 200.
func (cl *client) refusedAtFirst(up *upstreamConn) (status int, said []byte, refused bool) {
	h := &cl.resp
	encoding, kind := string(h.contentEncoding()), h.contentType()
	switch {
	case coding(encoding) != "" && !knownCoding(encoding):
	case isEventStream(string(kind)):
		o := opening{first: pool.NewFirstEvent(cl.route.Provider), encoding: encoding}
		return o.refused(cl.lookAhead(up, cl.x.opts.EventTimeout, pool.MaxFirstEvent, o.came))
	case pool.RefusesInDocuments(cl.route.Provider, cl.req.targetBytes()) && isJSON(string(kind)):
		return pool.RefusedInDocument(cl.answerBody(up))
	}
	return 0, nil, false
}

func (s *stream) refusedAtFirst(resp *http.Response) (status int, said []byte, refused bool) {
	provider, kind, encoding := s.cl.route.Provider, resp.Header.Get("Content-Type"), resp.Header.Get("Content-Encoding")
	switch {
	case coding(encoding) != "" && !knownCoding(encoding):
	case isEventStream(kind):
		o := opening{first: pool.NewFirstEvent(provider), encoding: encoding}
		return o.refused(s.lookAhead(resp, s.cl.x.opts.EventTimeout, pool.MaxFirstEvent, o.came))
	case pool.RefusesInDocuments(provider, []byte(s.r.RequestURI)) && isJSON(kind):
		return pool.RefusedInDocument(s.answerBody(resp))
	}
	return 0, nil, false
}

// isEventStream looks at a Content-Type.
func isEventStream(value string) bool {
	kind, _, _ := strings.Cut(value, ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// lookAhead reads the beginning of the response's body ahead, into the buffer from
// which it is passed on afterwards, until it is enough, all there is, or the time is up.
func (cl *client) lookAhead(up *upstreamConn, wait time.Duration, most int, enough func([]byte) bool) []byte {
	h := &cl.resp
	f := responseFraming(h, &cl.req)
	began := time.Now()
	cl.rearm(up, began.Add(wait))
	defer func() { cl.ahead += time.Since(began) }()
	var body []byte
	// The head stays where it is: reading on must not move it.
	base := up.in.r - len(h.raw)
	for at := 0; !f.done() && len(body) < most; {
		p := up.in.bytes()[at:]
		if len(p) == 0 {
			if enough(body) {
				break
			}
			up.in.r = base
			_, err := up.in.fill(up.tls, block256k)
			base = up.in.r
			h.raw = up.in.b[base : base+len(h.raw)]
			up.in.r = base + len(h.raw)
			if err != nil {
				break
			}
			continue
		}
		n, data, err := f.step(p)
		if err != nil {
			break
		}
		if data {
			body = append(body, p[:n]...)
		}
		at += n
	}
	cl.rearm(up, time.Time{})
	return body
}
