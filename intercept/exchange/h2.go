package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// h2Server serves the HTTP/2 client connections of an Exchanger with net/http's
// implementation. It listens nowhere: it accepts what serveH2 hands it.
type h2Server struct {
	http  *http.Server
	conns chan net.Conn
	done  chan struct{}
	close sync.Once

	mu      sync.Mutex
	clients map[net.Conn]*client
}

type clientKey struct{}

func newH2Server(o *Options, idle time.Duration) *h2Server {
	s := &h2Server{conns: make(chan net.Conn), done: make(chan struct{}), clients: make(map[net.Conn]*client)}
	s.http = &http.Server{
		MaxHeaderBytes: o.MaxHead,
		IdleTimeout:    idle,
		ErrorLog:       log.New(io.Discard, "", 0),
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: 250},
		Protocols:      new(http.Protocols),
		ConnContext: func(_ context.Context, c net.Conn) context.Context {
			cl := s.client(c)
			return context.WithValue(cl.ctx, clientKey{}, cl)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				close(s.client(c).h2Done)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(clientKey{}).(*client).serveStream(w, r)
		}),
	}
	s.http.Protocols.SetHTTP2(true)
	return s
}

func (s *h2Server) client(c net.Conn) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[c]
}

func (s *h2Server) run() { _ = s.http.Serve(s) } // until Close

// Accept, Close and Addr make it the net.Listener of its http.Server.
func (s *h2Server) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, http.ErrServerClosed
	}
}

// Close ends accepting; the http.Server may call it more than once.
func (s *h2Server) Close() error {
	s.close.Do(func() { close(s.done) })
	return nil
}

// Addr is of no meaning here, but the interface asks for one.
func (*h2Server) Addr() net.Addr { return &net.TCPAddr{} }

// serveH2 hands the connection over and waits for its end.
func (cl *client) serveH2() {
	cl.h2Done = make(chan struct{})
	for {
		cl.x.mu.Lock()
		s := cl.x.h2Server
		cl.x.mu.Unlock()
		if s.serve(cl) {
			return
		}
		cl.x.mu.Lock()
		over := s == cl.x.h2Server
		cl.x.mu.Unlock()
		if over {
			return
		}
	}
}

// serve is false if the server takes no connection any more.
func (s *h2Server) serve(cl *client) bool {
	s.mu.Lock()
	s.clients[cl.tls] = cl
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.clients, cl.tls)
		s.mu.Unlock()
	}()
	select {
	case s.conns <- cl.tls:
	case <-s.done:
		return false
	}
	<-cl.h2Done
	cl.mu.Lock()
	cl.over = true
	cl.mu.Unlock()
	cl.streams.Wait()
	return true
}

// beginStream counts a stream in, unless the connection has ended: its handler may
// begin only then, and would be waited for by nobody.
func (cl *client) beginStream() bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if !cl.over {
		cl.streams.Add(1)
	}
	return !cl.over
}

// serveStream answers one HTTP/2 request.
func (cl *client) serveStream(w http.ResponseWriter, r *http.Request) {
	if !cl.beginStream() {
		panic(http.ErrAbortHandler)
	}
	defer cl.streams.Done()
	x := cl.x
	x.counts.requests.Add(1)
	if denied, ok := cl.sameHost(r); !ok {
		x.deny(cl.upstream, cl.route, []byte(denied), ":authority names another host than the connection")
		cl.writeLocal(w, plainAnswer(421, "the request names another host than its connection"))
		return
	}
	err := checkMethod(r.Method)
	if err == nil && !strings.HasPrefix(r.RequestURI, "/") && (r.RequestURI != "*" || r.Method != http.MethodOptions) {
		err = malformed("bad request target") // RFC 9113 section 8.3.1
	}
	if err != nil {
		cl.writeLocal(w, x.failure(cl.route.Host, err))
		return
	}
	s := &stream{cl: cl, w: w, r: r, body: newKept(x, cl.body.share, r)}
	defer s.refused.Wait()
	defer s.body.release(r.Body)
	s.run()
}

// stream is one HTTP/2 exchange.
type stream struct {
	cl   *client
	w    http.ResponseWriter
	r    *http.Request
	body *kept
	wait time.Duration // that the upstream's body was waited for before it was passed on

	refused sync.WaitGroup // answers that are being closed
}

func (s *stream) run() {
	cl, x := s.cl, s.cl.x
	began := time.Now()
	a := attempts{x: x, route: cl.route}
	a.ask([]byte(s.r.Method), []byte(s.r.RequestURI))
	if s.answerTokens(&a) {
		return
	}
	if s.findTie(&a) != nil {
		x.counts.canceled.Add(1)
		panic(http.ErrAbortHandler) // the client's body failed: it has gone
	}
	began = began.Add(s.wait) // the client's time: its body was waited for
	s.wait = 0
	if err := a.first(s.r.Context()); err != nil {
		cl.writeLocal(s.w, x.failure(cl.route.Host, err))
		return
	}
	for {
		ctx, cancel := context.WithCancelCause(s.r.Context())
		sent := time.Now()
		resp, err := s.send(ctx, cancel, &a.lease)
		began = began.Add(time.Since(sent)) // that was the upstream's time
		if err != nil {
			cancel(nil)
			if s.r.Context().Err() != nil {
				x.counts.canceled.Add(1)
				panic(http.ErrAbortHandler) // resets the stream; there is no one to answer
			}
			cl.writeLocal(s.w, x.failure(cl.route.Host, err))
			return
		}
		v, exhausted := s.judge(resp, &a)
		if v == verdictPass {
			defer cancel(nil)
			if s.withhold(resp, &a) {
				return
			}
			x.added.observe(time.Since(began) - s.wait)
			s.body.letGo()
			s.deliver(resp, &a)
			return
		}
		cancel(nil) // resets the refused stream, and its body's with it
		// Closing waits for whoever sends the request's body, and that one for the client.
		s.refused.Go(func() { resp.Body.Close() })
		if v == verdictExhausted {
			cl.writeLocal(s.w, x.failure(cl.route.Host, exhausted))
			return
		}
	}
}

var errNoResponse = fmt.Errorf("no response head: %w", context.DeadlineExceeded)

// send makes one attempt, up to the response's head.
func (s *stream) send(ctx context.Context, cancel context.CancelCauseFunc, l *pool.Lease) (*http.Response, error) {
	cl, x := s.cl, s.cl.x
	if err := cl.failure(); err != nil {
		return nil, err
	}
	// The library's reader may still pass one on when the attempt has been given up.
	var informing sync.Mutex
	over := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusContinue {
				return nil // the library answers Expect itself when the body is first read
			}
			informing.Lock()
			defer informing.Unlock()
			if over {
				return nil
			}
			header := s.w.Header()
			for k, v := range s.cleanFields(http.Header(h), l) {
				header[k] = v
			}
			s.w.WriteHeader(code)
			clear(header)
			return nil
		},
	})
	timer := time.AfterFunc(x.opts.ResponseTimeout, func() { cancel(errNoResponse) })
	defer timer.Stop()
	resp, err := x.h2.roundTrip(x, cl.upstream, s.request(ctx, l))
	informing.Lock()
	over = true
	informing.Unlock()
	if err != nil && errors.Is(context.Cause(ctx), errNoResponse) {
		err = errNoResponse
	}
	return resp, err
}

// failure is why the upstream could not be reached during the handshake, once: the next request tries again.
func (cl *client) failure() error {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	err := cl.failed
	cl.failed = nil
	return err
}

// request makes what goes upstream. Nothing is added to it but the lease's
// fields: not even a User-Agent.
func (s *stream) request(ctx context.Context, l *pool.Lease) *http.Request {
	r := s.r
	header := make(http.Header, len(r.Header)+len(l.Inject))
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		if replaced([]byte(lower), l) || hopByHopH2(lower) {
			continue
		}
		header[name] = values
	}
	if accept := []byte(strings.Join(r.Header["Accept-Encoding"], ",")); l.Echo != nil && !seenThrough(accept) {
		header["Accept-Encoding"] = []string{cmp.Or(codingsSeenThrough(accept), "identity")}
	}
	if listHas([]byte(strings.Join(r.Header["Te"], ",")), "trailers") {
		header["Te"] = []string{"trailers"}
	}
	for i := range l.Inject {
		header[http.CanonicalHeaderKey(l.Inject[i].Name)] = []string{string(l.Inject[i].Value)}
	}
	for i := range l.Also {
		name := http.CanonicalHeaderKey(l.Also[i].Name)
		if sent := header[name]; !listHas([]byte(strings.Join(sent, ",")), string(l.Also[i].Value)) {
			header[name] = append(slices.Clip(sent), string(l.Also[i].Value))
		}
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil
	}
	target := string(appendTarget(nil, []byte(r.RequestURI), l.StripQuery))
	u := &url.URL{Scheme: "https", Host: r.Host, Opaque: target}
	if strings.HasPrefix(target, "//") {
		u.Opaque = "https://" + r.Host + target // else it would be read as an authority
	}
	out := &http.Request{
		Method: r.Method, URL: u, Host: r.Host, Header: header,
		Proto: "HTTP/2.0", ProtoMajor: 2,
		ContentLength: r.ContentLength, Trailer: r.Trailer,
	}
	if r.ContentLength != 0 {
		out.Body, out.GetBody = s.body.reader(), s.bodyAgain
	}
	return out.WithContext(ctx)
}

// bodyAgain is the body for a request that the upstream has said it did not take (REFUSED_STREAM, or a GOAWAY that leaves its
// stream out), which the library sends again on another connection: RFC 9113 section 8.7.
func (s *stream) bodyAgain() (io.ReadCloser, error) {
	if !s.body.replayable() {
		return nil, errNotKept
	}
	return s.body.reader(), nil
}

var errNotKept = errors.New("the request is too long to be sent again")

func hopByHopH2(lower string) bool {
	switch lower {
	case "connection", "keep-alive", "te", "host", "transfer-encoding", "upgrade", "trailer":
		return true
	}
	return strings.HasPrefix(lower, "proxy-")
}

// judge has the answer judged. What is read of its body for that is passed on later.
func (s *stream) judge(resp *http.Response, a *attempts) (verdict, *pool.ExhaustedError) {
	answer := pool.Answer{Status: resp.StatusCode, At: time.Now(), Aside: a.route.Aside}
	switch {
	case resp.StatusCode >= 400:
		answer.Header = resp.Header
		if pool.NeedsBody(resp.StatusCode) {
			answer.Body = s.answerBody(resp)
		}
	case s.cl.route.Provider != "" && resp.StatusCode == http.StatusOK && s.body.replayable():
		if status, said, refused := s.refusedAtFirst(resp); refused {
			answer.Status, answer.Body, answer.Header = status, said, resp.Header
		}
	}
	if a.refresh(s.r.Context(), answer) {
		return a.afterRefresh(s.body.replayable()), nil
	}
	if !a.observe(s.r.Context(), answer) {
		if a.strange(answer.Status) {
			return a.afterStandIn(s.r.Context(), s.body.replayable())
		}
		return verdictPass, nil
	}
	if !s.body.replayable() {
		s.cl.x.counts.notReplayable.Add(1)
		return a.passRefusal(), nil
	}
	return a.next(s.r.Context())
}

// deliver passes the response on as it arrives, with its trailers.
func (s *stream) deliver(resp *http.Response, a *attempts) {
	l, limits := &a.lease, s.watchLater(resp, a)
	tee, found := s.tee(resp, l), echoClean
	defer func() {
		// The client's body first: closing the response waits for whoever sends that.
		_ = s.r.Body.Close()
		_ = resp.Body.Close()
	}()
	if resp.ContentLength != 0 && s.r.Method != http.MethodHead {
		if found = s.cleanBody(resp, l, tee); found == echoFound {
			tee = nil
		}
	}
	header := s.w.Header()
	for name, values := range s.cleanFields(resp.Header, l) {
		header[name] = values
	}
	for name := range resp.Trailer {
		header.Add("Trailer", name)
	}
	// nil keeps the library from making up what the upstream did not send.
	for _, name := range [...]string{"Date", "Content-Type"} {
		if _, ok := header[name]; !ok {
			header[name] = nil
		}
	}
	s.cl.sayLastStream(header)
	s.w.WriteHeader(resp.StatusCode)
	// Without a body the head must go out with the end of the stream: for gRPC a
	// head that ends the stream is the trailers.
	if resp.ContentLength != 0 && s.r.Method != http.MethodHead {
		var g *h2guard
		if found == echoUnknown {
			g = s.guardBody(resp, l, limits)
			defer g.end()
		}
		s.copyBody(resp, tee, limits, g)
	}
	for name, values := range s.cleanFields(resp.Trailer, l) {
		if _, announced := header[name]; !announced {
			header[http.TrailerPrefix+name] = values
		}
	}
}

func (s *stream) copyBody(resp *http.Response, tee *clueTee, limits *later, g *h2guard) {
	control := http.NewResponseController(s.w)
	block := s.cl.x.blocks.get(g.block())
	defer s.cl.x.blocks.put(block)
	var p []byte
	held := 0 // bytes behind p that are not to be passed on yet
	// A long or unknown body may be a stream: its head goes out at once.
	flush := resp.ContentLength < 0 || resp.ContentLength > block4k
	var err error
	for {
		if s.pass(p, control, flush && err == nil) != nil {
			panic(http.ErrAbortHandler)
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			s.cl.x.counts.aborted.Add(1)
			panic(http.ErrAbortHandler) // the client sees the stream reset, not a clean end
		}
		copy(block, block[len(p):len(p)+held])
		var n int
		n, err = resp.Body.Read(block[held:])
		out, clean := g.look(block[:held+n], n, err == io.EOF)
		if !clean {
			panic(http.ErrAbortHandler)
		}
		p, held = block[:out], held+n-out
		tee.see(p)
		if limits.plain() {
			limits.see(p)
		}
		if err == io.EOF {
			tee.end()
		}
		if err != nil {
			limits.end()
		}
		limits.judge(s.r.Context())
	}
}

// leastUnread is what answers that are not read may take of memory in any case. unreadTime is how long one may wait
// to be read for which that has no room: many that are written at once wait for each other, too.
const (
	leastUnread = 128 << 20
	unreadTime  = 5 * time.Second
)

// pass writes a part of an answer. As long as the client does not read, the upstream goes on until its window is used up: so many of a
// target's answers may be in that state, and one more is cut off unless it is read soon.
func (s *stream) pass(p []byte, control *http.ResponseController, flush bool) error {
	if len(p) == 0 && !flush {
		return nil
	}
	x, share := s.cl.x, s.cl.body.share
	if take(&x.unread, &share.unread, streamWindow, max(x.opts.ReplayBudget, leastUnread)) {
		defer give(&x.unread, &share.unread, streamWindow)
	} else {
		_ = control.SetWriteDeadline(time.Now().Add(unreadTime)) // the stream is reset then
		defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	}
	if len(p) > 0 {
		if _, err := s.w.Write(p); err != nil {
			return err
		}
	}
	if flush {
		return control.Flush()
	}
	return nil
}
