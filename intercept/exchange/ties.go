package exchange

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// Ties knows which member's account made what a request names. *pool.Keeper does.
type Ties interface {
	// RequestClues looks for such names in a request, in its target at once; nil if
	// there is no need.
	RequestClues(r pool.Route, target string) *pool.Clues
	// AnswerClues readies c to look for them in the answer to a request; false if there is no need.
	AnswerClues(r pool.Route, target string, c *pool.Clues) bool
	// Maker is the member that a request is tied to by what was found in it.
	Maker(r pool.Route, found []pool.Clue) (pool.Tie, bool)
	// Made notes what an answer to a lease's request handed out.
	Made(l pool.Lease, found []pool.Clue)
	// AcquireTied is Acquire for a request that only one member can serve.
	AcquireTied(ctx context.Context, r pool.Route, t pool.Tie) (pool.Lease, error)
}

// errKeepFull says that no more of a body can be kept before it is sent.
var errKeepFull = errors.New("no more of the body can be kept")

// isJSON looks at a Content-Type (RFC 6839 section 3.1 for the suffix).
func isJSON(value string) bool {
	kind, _, _ := strings.Cut(value, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == "application/json" || strings.HasSuffix(kind, "+json")
}

// clueTee looks for clues in an answer's body as it is passed on; nil looks at nothing.
type clueTee struct {
	ties     Ties
	lease    pool.Lease
	clues    pool.Clues
	encoding string
	packed   []byte // of a compressed body, which is looked at once it has come whole
}

// maxPacked is how long a compressed body may be, and maxUnpacked what comes out of it.
const (
	maxPacked   = 1 << 20
	maxUnpacked = 8 << 20
)

// begin says whether the answer to a lease's request may say what its account made: t is to
// see it then.
func (t *clueTee) begin(ties Ties, l *pool.Lease, r pool.Route, target string, status int, contentType, encoding string) bool {
	if ties == nil || l.Member == "" || status < 200 || status > 299 || !(isEventStream(contentType) || isJSON(contentType)) ||
		!ties.AnswerClues(r, target, &t.clues) {
		return false
	}
	t.ties, t.lease, t.encoding, t.packed = ties, *l, coding(encoding), nil
	return true
}

// see looks at the next bytes of the body, before the client does: its next request
// may name what is in them.
func (t *clueTee) see(p []byte) {
	switch {
	case t == nil:
	case t.encoding == "":
		_, _ = t.clues.Write(p)
		t.made()
	case len(t.packed)+len(p) <= maxPacked:
		t.packed = append(t.packed, p...)
	}
}

// end is called before the last bytes go out.
func (t *clueTee) end() {
	if t == nil {
		return
	}
	if t.encoding != "" {
		_, _ = t.clues.Write(decode(t.packed, t.encoding, maxUnpacked))
	}
	t.clues.End()
	t.made()
	t.lease, t.packed = pool.Lease{}, nil
}

func (t *clueTee) made() {
	if found := t.clues.Take(); len(found) > 0 {
		t.ties.Made(t.lease, found)
	}
}

// through calls see with the payload in p.
func (f *framing) through(p []byte, see func([]byte)) {
	for len(p) > 0 && !f.done() {
		n, data, err := f.step(p)
		if err != nil {
			return // whoever passes the body on says so
		}
		if data {
			see(p[:n])
		}
		p = p[n:]
	}
}

// value is the value of the first field of a name, "" if there is none.
func (h *head) value(name string) string {
	for i := range h.fields {
		if f := &h.fields[i]; equalFold(f.name(h.raw), name) {
			return string(f.val(h.raw))
		}
	}
	return ""
}

// maxPackedRequest is how long a compressed request may be and still be looked at, and
// maxUnpackedRequest how much of it: Codex compresses its conversations.
const (
	maxPackedRequest   = 16 << 20
	maxUnpackedRequest = 128 << 20
)

// clueReader looks for clues in a request's body, once it is there whole if it is compressed.
type clueReader struct {
	clues    *pool.Clues
	encoding string
	packed   []byte
	long     bool
}

func newClueReader(c *pool.Clues, encoding string) *clueReader {
	return &clueReader{clues: c, encoding: coding(encoding)}
}

// Write implements [io.Writer].
func (r *clueReader) Write(p []byte) (int, error) {
	if r.encoding == "" {
		return r.clues.Write(p)
	}
	if r.long = r.long || len(r.packed)+len(p) > maxPackedRequest; !r.long {
		r.packed = append(r.packed, p...)
	}
	return len(p), nil
}

func (r *clueReader) end() {
	if r.encoding == "" || r.long {
		return
	}
	in, done, err := decoder(bytes.NewReader(r.packed), r.encoding)
	if err != nil {
		return
	}
	defer done()
	_, _ = io.Copy(r.clues, io.LimitReader(in, maxUnpackedRequest)) // as far as it can be read
}

// findTie reads what it takes to know whether the request is tied to a member. The
// body is kept and sent afterwards; what is too long to be kept is looked at as far as
// it goes.
func (cl *client) findTie(a *attempts) error {
	ties := cl.x.opts.Ties
	if ties == nil || a.bare {
		return nil
	}
	clues := ties.RequestClues(cl.route, cl.target())
	if clues == nil {
		return nil
	}
	began := time.Now()
	var err error
	if isJSON(string(cl.req.contentType())) {
		seen := newClueReader(clues, string(cl.req.contentEncoding()))
		err = cl.readWhole(func(p []byte) { _, _ = seen.Write(p) })
		seen.end()
	}
	if cl.ahead = time.Since(began); err != nil {
		return err
	}
	clues.End()
	a.tie, _ = ties.Maker(cl.route, clues.Take())
	return nil
}

// tee looks at the HTTP/1.1 answer that is about to be passed on.
func (cl *client) tee(l *pool.Lease) *clueTee {
	h, t := &cl.resp, cl.clues
	if cl.route.Provider == "" || cl.x.opts.Ties == nil {
		return nil
	}
	if t == nil {
		t = new(clueTee)
	}
	if !t.begin(cl.x.opts.Ties, l, cl.route, cl.target(), h.status, string(h.contentType()), string(h.contentEncoding())) {
		return nil
	}
	cl.clues = t // for the next answer
	return t
}

// target is the request's, as a string that is made anew only where it is another one than before.
func (cl *client) target() string {
	if t := cl.req.targetBytes(); cl.lastTarget != string(t) {
		cl.lastTarget = string(t)
	}
	return cl.lastTarget
}

// readWhole reads the request's body, as far as it can be kept, before any of it is sent.
func (cl *client) readWhole(see func([]byte)) error {
	b := &cl.body
	if b.framing.kind == bodyNone {
		return nil
	}
	var look framing // over what is at hand: chunked framing is part of it
	if look.kind = b.framing.kind; look.kind == bodyLength {
		look.left = cl.req.length
	}
	look.through(b.first, see)
	if cl.req.expect && !b.complete() {
		// The client waits for a word before it sends what has to be read.
		if _, err := cl.tls.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
			return errClientGone
		}
	}
	b.whole = true
	defer func() {
		b.whole = false
		cl.setReadBy(time.Time{}, 0)
	}()
	for !b.complete() {
		cl.setReadBy(time.Now(), cl.x.opts.IdleTimeout)
		p, err := cl.receive()
		if errors.Is(err, errKeepFull) {
			return nil
		}
		if err != nil {
			b.readErr = err
			return err
		}
		look.through(p, see)
	}
	return nil
}

// tee looks at the HTTP/2 answer that is about to be passed on.
func (s *stream) tee(resp *http.Response, l *pool.Lease) *clueTee {
	h, t := resp.Header, new(clueTee)
	if !t.begin(s.cl.x.opts.Ties, l, s.cl.route, s.r.RequestURI, resp.StatusCode, h.Get("Content-Type"), h.Get("Content-Encoding")) {
		return nil
	}
	return t
}

// findTie is the same for HTTP/2.
func (s *stream) findTie(a *attempts) error {
	ties, route := s.cl.x.opts.Ties, s.cl.route
	if ties == nil || a.bare {
		return nil
	}
	clues := ties.RequestClues(route, s.r.RequestURI)
	if clues == nil {
		return nil
	}
	if s.r.ContentLength != 0 && isJSON(s.r.Header.Get("Content-Type")) {
		began := time.Now()
		seen := newClueReader(clues, s.r.Header.Get("Content-Encoding"))
		err := s.body.readAhead(seen)
		seen.end()
		if s.wait = time.Since(began); err != nil {
			return err
		}
	}
	clues.End()
	a.tie, _ = ties.Maker(route, clues.Take())
	return nil
}
