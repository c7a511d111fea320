package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/user"
	"path"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/control"
)

// How long a client may take: for the header, for the body, and to take the answer.
const (
	headerTime = 10 * time.Second
	bodyTime   = 15 * time.Second
	writeTime  = 30 * time.Second
)

// Options is what a [Server] needs.
type Options struct {
	Operations *control.Operations // what the routes do; required
	Metrics    http.Handler        // what /metrics answers; required
	Log        *slog.Logger        // nil discards
	Now        func() time.Time    // nil is time.Now
}

// Server answers the routes of control/openapi.yaml.
type Server struct {
	ops     *control.Operations
	metrics http.Handler
	log     *slog.Logger
	now     func() time.Time
	check   *validator
	handler http.Handler
	// streams ends the answers that have no end of their own.
	streams context.Context
	stop    context.CancelFunc
}

var _ ServerInterface = (*Server)(nil)

// New makes a server; Serve starts it.
func New(o Options) (*Server, error) {
	check, err := newValidator(control.Document)
	if err != nil {
		return nil, err
	}
	s := &Server{ops: o.Operations, metrics: o.Metrics, log: o.Log, now: o.Now, check: check}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.streams, s.stop = context.WithCancel(context.Background())
	routes := http.NewServeMux()
	HandlerWithOptions(s, StdHTTPServerOptions{
		BaseRouter: routes, Middlewares: []MiddlewareFunc{s.validated},
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			fail(w, r, s.log, unreadable(err))
		},
	})
	s.handler = s.whole(s.routed(routes))
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Serve answers on the unix socket l until ctx ends, then lets what is being
// answered finish, for at most grace, and closes l. Event streams end at once.
func (s *Server) Serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	return s.serve(ctx, l, s, grace)
}

func (s *Server) serve(ctx context.Context, l net.Listener, handler http.Handler, grace time.Duration) error {
	server := &http.Server{
		Handler: handler, ConnContext: withPeer, ReadHeaderTimeout: headerTime, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		s.stop()
		return err
	case <-ctx.Done():
	}
	s.stop()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// limitBody gives a client bodyTime to send the body, however few bytes it sends at a time. A refusal waits for it, too:
// net/http sends none before it has read the rest of what it is the answer to.
func limitBody(w http.ResponseWriter) {
	// The clock is the connection's: deadlines need the real one. A recorder, which has
	// no connection, has no deadlines either.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
}

// validated holds a routed request against the document before it is handled.
func (s *Server) validated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connection := http.NewResponseController(w)
		_ = connection.SetWriteDeadline(time.Time{}) // of the answer before
		if err := s.check.check(r); err != nil {
			fail(w, r, s.log, err)
			return
		}
		_ = connection.SetReadDeadline(time.Time{})
		next.ServeHTTP(w, r)
	})
}

// whole answers what a handler fails to: a fault of sluice's is an answer like
// any other, and the daemon goes on.
func (s *Server) whole(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limitBody(w)
		begun := &begun{ResponseWriter: w}
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			if fault == http.ErrAbortHandler || begun.yes {
				panic(http.ErrAbortHandler)
			}
			fail(w, r, s.log, fmt.Errorf("panic: %v\n%s", fault, debug.Stack()))
		}()
		next.ServeHTTP(begun, r)
	})
}

// begun is an answer of which it is known whether anything has gone out. From then on a client has writeTime to take it:
// what it has to wait for, an agent's reset say, may take longer.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) begin() {
	if !b.yes {
		b.yes = true
		_ = http.NewResponseController(b.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTime))
	}
}

func (b *begun) WriteHeader(status int) {
	b.begin()
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(p []byte) (int, error) {
	b.begin()
	return b.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// routed answers what no route is there for in the shape of every other error.
func (s *Server) routed(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refusal, pattern := mux.Handler(r)
		// A path that is not clean would be redirected, and who follows asks for what they did not say.
		asked := r.URL.EscapedPath()
		if pattern != "" && path.Clean(asked) == asked {
			mux.ServeHTTP(w, r)
			return
		}
		// The mux knows whether it is the path or only the method: its own
		// answer is asked, not sent.
		var plain discarded
		refusal.ServeHTTP(&plain, r)
		if allow := plain.Header().Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
			write(w, http.StatusMethodNotAllowed, errorBody(ErrorErrorCodeInvalid,
				fmt.Sprintf("method: %s takes %s, not %s", r.URL.Path, allow, r.Method)))
			return
		}
		write(w, http.StatusNotFound, errorBody(ErrorErrorCodeNotFound,
			fmt.Sprintf("there is no route %s: GET /api/openapi.yaml lists them", r.URL.Path)))
	})
}

// discarded is an answer of which only the header is of interest.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header {
	if d.header == nil {
		d.header = make(http.Header)
	}
	return d.header
}
func (d *discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d *discarded) WriteHeader(int)             {}

// answer sends the body, or the error if there is one.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, body any, err error) {
	switch {
	case err != nil:
		fail(w, r, s.log, err)
	case status == http.StatusNoContent:
		w.WriteHeader(status)
	default:
		write(w, status, body)
	}
}

type peerKey struct{}

// withPeer notes who is at the other end of a unix socket. The kernel vouches
// for it (unix(7), SO_PEERCRED).
func withPeer(ctx context.Context, c net.Conn) context.Context {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	err = raw.Control(func(fd uintptr) {
		peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || peer == nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, control.Actor{Channel: control.ChannelUnix, Who: account(int(peer.Uid))})
}

// account is a user as people know them: "UID/NAME", or "UID" if it has no name.
func account(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return id + "/" + u.Username
	}
	return id
}

// actor is who sent the request.
func actor(r *http.Request) control.Actor {
	who, known := r.Context().Value(peerKey{}).(control.Actor)
	if !known {
		who.Channel = control.ChannelUnix // of somebody whom the kernel does not name
	}
	return who
}
