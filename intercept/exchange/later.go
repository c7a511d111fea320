package exchange

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// later looks for a refusal in the midst of a provider's event stream as it is passed on, and keeps nothing of it up. Its
// methods take a nil one.
type later struct {
	asked  attempts // a copy, so that those of every other request stay off the heap
	header http.Header
	lines  []byte // in place of header: those of it that tell of limits
	events pool.LaterEvents
	coded  bool // it is what looks for secrets that decodes the stream, and shows it
	over   bool // there is nothing more to look at

	refused bool // not judged yet
	status  int
	said    []byte
}

// watchLater is nil if there is nothing to look for, or nothing more: the answer has begun with a refusal.
func (a *attempts) watchLater(status int, contentType, encoding string) *later {
	if a.route.Provider == "" || status != http.StatusOK || a.lease.Member == "" || a.refused || !isEventStream(contentType) {
		return nil
	}
	return &later{asked: *a, events: pool.NewLaterEvents(a.route.Provider), coded: coding(encoding) != ""}
}

// plain says whether it is to be shown the bytes as they are passed on.
func (l *later) plain() bool { return l != nil && !l.coded && !l.over }

// see looks at what comes next.
func (l *later) see(p []byte) {
	if l != nil && !l.over {
		l.found(l.events.Next(p))
	}
}

// end says that nothing more comes.
func (l *later) end() {
	if l != nil && !l.over {
		l.found(l.events.End())
		l.over = true
	}
}

func (l *later) found(status int, said []byte, refused bool) {
	if refused {
		l.status, l.said, l.refused, l.over = status, said, true, true
	}
}

// judge has a member judged by what it said in the midst of its answer, before the client reads that and asks again.
func (l *later) judge(ctx context.Context) {
	if l == nil || !l.refused {
		return
	}
	l.refused = false
	if l.header == nil {
		l.header = make(http.Header)
		for line := range bytes.Lines(l.lines) {
			name, value, _ := bytes.Cut(line, []byte(":"))
			l.header.Add(string(name), string(bytes.TrimSpace(value)))
		}
	}
	a := &l.asked
	answer := pool.Answer{Status: l.status, Header: l.header, Body: l.said, At: time.Now(), Begun: a.begun, Aside: a.route.Aside}
	if a.observe(ctx, answer) {
		a.x.counts.notReplayable.Add(1)
		a.passRefusal()
	}
}

// watchLater keeps what the head says of limits: its memory is needed for what follows it.
func (cl *client) watchLater(a *attempts) *later {
	h := &cl.resp
	if a.route.Provider == "" || h.status != http.StatusOK {
		return nil // without a look for any field
	}
	l := a.watchLater(h.status, string(h.contentType()), string(h.contentEncoding()))
	if l == nil {
		return nil
	}
	for i := range h.fields {
		if f := &h.fields[i]; pool.TellsOfLimits(f.name(h.raw)) {
			l.lines = append(l.lines, h.raw[f.line:f.end]...)
		}
	}
	return l
}

func (s *stream) watchLater(resp *http.Response, a *attempts) *later {
	h := resp.Header
	l := a.watchLater(resp.StatusCode, h.Get("Content-Type"), h.Get("Content-Encoding"))
	if l != nil {
		l.header = h
	}
	return l
}
