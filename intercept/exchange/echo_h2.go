package exchange

import (
	"bytes"
	"io"
	"net/http"
	"strconv"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/echo"
)

// cleanFields puts placeholders in the place of secrets in fields or trailers.
func (s *stream) cleanFields(fields http.Header, l *pool.Lease) http.Header {
	if l.Echo == nil {
		return fields
	}
	var clean http.Header
	for name, values := range fields {
		for i, v := range values {
			if !l.Echo.Contains([]byte(v)) {
				continue
			}
			if clean == nil {
				clean = fields.Clone()
				s.cl.x.echoed(l, s.cl.route.Host, false)
			}
			clean[name][i] = string(l.Echo.Replace([]byte(v)))
		}
	}
	if clean == nil {
		return fields
	}
	return clean
}

// begunBody is a body of which the beginning was read.
type begunBody struct {
	io.Reader
	io.Closer
}

// readBody says whether all of a body was read, which is then what it returns. It is
// passed on later in any case.
func (s *stream) readBody(resp *http.Response) (text []byte, whole bool) {
	if resp.ContentLength < 0 {
		text = s.lookAhead(resp, s.cl.x.opts.AnswerTimeout, maxWhole, never)
		return text, resp.Body.(*ahead).whole()
	}
	text = make([]byte, resp.ContentLength)
	n, err := io.ReadFull(resp.Body, text)
	text = text[:n]
	if err == nil {
		var end [1]byte
		_, err = resp.Body.Read(end[:]) // for the trailers
		whole = err == io.EOF
	}
	resp.Body = begunBody{io.MultiReader(bytes.NewReader(text), failing{err}), resp.Body}
	return text, whole
}

// failing is what comes behind the beginning of a body.
type failing struct{ err error }

// Read implements [io.Reader].
func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.ErrUnexpectedEOF // more came than was announced
	}
	return 0, f.err
}

// cleanBody looks for secrets in a body before it is passed on, if it is worth being
// waited for: the one that goes out instead is put in its place.
func (s *stream) cleanBody(resp *http.Response, l *pool.Lease, tee *clueTee) echoState {
	kind, encoding := resp.Header.Get("Content-Type"), coding(resp.Header.Get("Content-Encoding"))
	short := resp.ContentLength >= 0 && resp.ContentLength <= block16k && !isEventStream(kind)
	if l.Echo == nil || !short && !worthWaiting(kind, encoding, resp.ContentLength) {
		return echoUnknown
	}
	text, whole := s.readBody(resp)
	if !whole {
		return echoUnknown
	}
	raw := text
	if encoding != "" {
		var ok bool
		if text, ok = readable(raw, encoding); !ok {
			return echoUnknown
		}
	}
	var mine []own
	if isJSON(kind) && len(l.Inject) > 1 {
		mine = ownFields(l, s.r.Header.Get)
	}
	body, echoes, ok := cleaned(text, l, mine)
	if echoes {
		s.cl.x.echoed(l, s.cl.route.Host, false)
	}
	switch {
	case !ok && encoding != "" && l.Echo.Contains(raw): // what no decoder takes for its own
		return echoUnknown
	case !ok:
		return echoClean
	}
	tee.see(raw)
	tee.end()
	resp.Header = resp.Header.Clone()
	for name := range resp.Header {
		if describesBody([]byte(name)) {
			resp.Header.Del(name)
		}
	}
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	resp.ContentLength = int64(len(body))
	resp.Body = begunBody{bytes.NewReader(body), resp.Body}
	return echoFound
}

// h2guard looks for secrets in a body as it is passed on.
type h2guard struct {
	s      *stream
	lease  *pool.Lease
	echoes echo.Stream
	packed *unpacker
	told   bool
}

// guardBody is nil if there is nothing to look for.
func (s *stream) guardBody(resp *http.Response, l *pool.Lease, limits *later) *h2guard {
	if l.Echo == nil {
		return nil
	}
	g := &h2guard{s: s, lease: l}
	g.echoes.Begin(l.Echo)
	if encoding := coding(resp.Header.Get("Content-Encoding")); encoding != "" {
		g.packed = newUnpacker(l.Echo, encoding, limits)
	}
	return g
}

// look is given what is held back, and n bytes behind that. It returns how much may be
// passed on; ok is false if no more may be.
func (g *h2guard) look(p []byte, n int, last bool) (out int, ok bool) {
	if g == nil {
		return len(p), true
	}
	if g.packed != nil {
		g.packed.see(p[len(p)-n:])
		if g.packed.echoes(last) {
			g.s.cl.x.echoed(g.lease, g.s.cl.route.Host, true)
			return 0, false
		}
	}
	g.echoes.Next(p, len(p)-n, n)
	if g.echoes.Found() > 0 && !g.told {
		g.told = true
		g.s.cl.x.echoed(g.lease, g.s.cl.route.Host, false)
	}
	if out = len(p); !last {
		out = g.echoes.Held(out)
	}
	if g.packed != nil {
		out = min(out, g.packed.passable(len(p), len(p)-n))
	}
	g.echoes.Passed(out)
	return out, true
}

// block is how much is read at once: there has to be room behind what is held back.
func (g *h2guard) block() int {
	switch {
	case g == nil:
		return block16k
	case g.lease.Echo.Longest() > block64k/2:
		return block256k
	case g.packed != nil:
		return g.packed.most + block16k
	case g.lease.Echo.Longest() > block4k:
		return block64k
	}
	return block16k
}

func (g *h2guard) end() {
	if g != nil {
		g.packed.close()
	}
}
