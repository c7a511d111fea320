package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// silence is how long a daemon may be silent before it is asked whether it lives, and how long it may take to say so.
const silence = 10 * time.Second

// attended is a client's transport. It waits for an answer as long as the daemon says that it lives: some have to wait for
// others, for containers or for an agent's reset. One that does not even say that was stopped, or hangs. Its errors are
// *[UnreachableError], or that the caller waits no more.
type attended struct {
	*http.Transport
	daemon  UnreachableError // what is said of it; Err is empty
	silence time.Duration
}

// RoundTrip implements [http.RoundTripper].
func (a *attended) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, giveUp := context.WithCancelCause(r.Context())
	watched, unwatch := context.WithCancel(ctx)
	go a.watch(watched, r, giveUp)
	answer, err := a.Transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		unwatch()
		err = a.explain(ctx, err)
		giveUp(nil)
		return nil, err
	}
	if answer.Header.Get("Content-Type") == "text/event-stream" {
		unwatch() // it is silent as long as nothing happens
	}
	answer.Body = &attendedBody{ReadCloser: answer.Body, a: a, ctx: ctx, end: func() { unwatch(); giveUp(nil) }}
	return answer, nil
}

// watch gives a request up when the daemon does not live, until ctx ends.
func (a *attended) watch(ctx context.Context, r *http.Request, giveUp context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(a.silence):
		}
		err := a.lives(ctx, r.URL)
		if ctx.Err() != nil {
			return
		}
		var silent *UnreachableError
		if errors.As(err, &silent) {
			silent.Pending = r.Method != http.MethodGet
			giveUp(silent)
			return
		}
	}
}

// lives asks the daemon whether it does. Any answer says so.
func (a *attended) lives(ctx context.Context, at *url.URL) error {
	ctx, cancel := context.WithTimeout(ctx, a.silence)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.ResolveReference(&url.URL{Path: "/healthz"}).String(), nil)
	if err != nil {
		return err
	}
	answer, err := a.Transport.RoundTrip(r)
	if err != nil {
		return a.explain(ctx, err)
	}
	return answer.Body.Close()
}

// explain makes an error of the transport's one of ours.
func (a *attended) explain(ctx context.Context, err error) error {
	var unreachable *UnreachableError
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &unreachable), errors.As(err, &unreachable):
		return unreachable
	case errors.Is(cause, context.Canceled): // the caller's wish
		return cause
	case cause != nil:
		err = cause
	}
	daemon := a.daemon
	daemon.Err = err
	return &daemon
}

// attendedBody is an answer's body. The daemon is attended to until it is closed.
type attendedBody struct {
	io.ReadCloser
	a   *attended
	ctx context.Context
	end func()
}

func (b *attendedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.a.explain(b.ctx, err)
	}
	return n, err
}

func (b *attendedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}
