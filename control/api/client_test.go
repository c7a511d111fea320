package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/user"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/pool"
)

// Each code survives the way over the wire and back.
func TestCodesRoundTrip(t *testing.T) {
	t.Parallel()
	statuses := make(map[int]bool)
	for _, row := range codes {
		status, body := describe(&pool.Error{Code: row.code, Message: "what: why"})
		if statuses[status] {
			t.Errorf("two codes are status %d: the client could not tell", status)
		}
		statuses[status] = true
		w := httptest.NewRecorder()
		write(w, status, body)
		var known *pool.Error
		if err := restore(status, w.Body.Bytes()); !errors.As(err, &known) || known.Code != row.code {
			t.Errorf("%v comes back as %v", row.code, err)
		}
	}
	if status, body := describe(errors.New("secret inside")); status != 500 || strings.Contains(body.Error.Message, "secret") {
		t.Errorf("an unknown error is %d %q", status, body.Error.Message)
	}
}

func TestClientAgainstSomethingElse(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	other := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = other.Serve(listener) }()
	defer other.Close()
	client, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Pools(t.Context()); err == nil || !strings.Contains(err.Error(), "not sluice") {
		t.Errorf("got %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, socket := range []string{filepath.Join(dir, "none"), stale} {
		client, err := Dial(socket)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Status(t.Context())
		var unreachable *UnreachableError
		if !errors.As(err, &unreachable) || !unreachable.NotRunning() {
			t.Errorf("%s: %v", socket, err)
		}
		if err != nil && !strings.Contains(err.Error(), "sudo sluice serve") {
			t.Errorf("%v does not say what to do", err)
		}
	}
}

// The stream begins with what was there, goes on with what comes, in order and
// without a gap, and ends with the daemon.
func TestFollow(t *testing.T) {
	t.Parallel()
	s := newServed(t, io.Discard)
	record := func(detail string) {
		t.Helper()
		if err := s.keeper.Record(t.Context(), pool.Event{Kind: pool.EventDenied, Detail: detail}); err != nil {
			t.Fatal(err)
		}
	}
	record("0")
	record("1")
	client, err := Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	all, err := client.Events(t.Context(), 10)
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	var opened atomic.Int64
	got := make(chan Event)
	ended := make(chan error, 1)
	go func() {
		ended <- client.Follow(context.Background(), all[0].Seq, func() { opened.Add(1) }, func(e Event) error {
			got <- e
			return nil
		})
	}()
	last := int64(-1)
	expect := func(detail string) {
		t.Helper()
		select {
		case e := <-got:
			if e.Detail != detail || e.Seq <= last {
				t.Errorf("event %v after %d, want %q", e, last, detail)
			}
			last = e.Seq
		case err := <-ended:
			t.Fatalf("the stream ended: %v", err)
		case <-time.After(10 * time.Second):
			t.Fatalf("no event %q", detail)
		}
	}
	expect("1")
	for _, detail := range []string{"2", "3", "4"} {
		record(detail)
	}
	expect("2")
	expect("3")
	expect("4")
	record("5")
	expect("5")
	s.stop()
	if err := <-ended; err == nil || opened.Load() != 1 {
		t.Errorf("the end of the daemon: %v; opened %d times", err, opened.Load())
	}
}

// A client that comes back with Last-Event-ID gets what it has missed.
func TestLastEventID(t *testing.T) {
	t.Parallel()
	s := newServed(t, io.Discard)
	for _, detail := range []string{"0", "1", "2"} {
		if err := s.keeper.Record(t.Context(), pool.Event{Kind: pool.EventDenied, Detail: detail}); err != nil {
			t.Fatal(err)
		}
	}
	events, err := s.ops.ListEvents(t.Context(), -1, 10)
	if err != nil || len(events) != 3 {
		t.Fatal(events, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/api/events", http.NoBody)
	r.Header.Set("Accept", "text/event-stream; q=1, text/html;q=0.1")
	r.Header.Set("Last-Event-ID", "1")
	if events[0].Seq != 1 {
		t.Fatalf("the first seq is %d", events[0].Seq)
	}
	w := &streamed{ResponseRecorder: httptest.NewRecorder(), after: 2, done: cancel}
	s.ServeHTTP(w, r)
	if text := w.Body.String(); !strings.HasPrefix(text, "id: 2\n") || !strings.Contains(text, "\n\nid: 3\nevent: denied\ndata: {") {
		t.Errorf("the stream is %q", text)
	}
}

// streamed ends a stream once it has had as many events as it is to have.
type streamed struct {
	*httptest.ResponseRecorder
	after int
	done  func()
}

func (s *streamed) Write(p []byte) (int, error) {
	n, err := s.ResponseRecorder.Write(p)
	if strings.Count(s.Body.String(), "\n\n") >= s.after {
		s.done()
	}
	return n, err
}

// Who is at the other end of the socket is in the log and in the event, by the
// kernel's word.
func TestActor(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := newServed(t, &log)
	client, err := Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	secret := "s"
	if _, err := client.AddCredential(t.Context(), CredentialSpec{Name: "a", Secret: &secret}); err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	want := control.Actor{Channel: control.ChannelUnix, Who: me.Uid + "/" + me.Username}.String()
	events, err := client.Events(t.Context(), 1)
	if err != nil || len(events) != 1 || events[0].Kind != "cred_added" || events[0].Actor != want {
		t.Errorf("%+v, %v; want the actor %s", events, err, want)
	}
	if !strings.Contains(log.String(), want) {
		t.Errorf("the log has no %q: %s", want, log.String())
	}
}

// What is too long for a socket's path is told as that.
func TestSocketPathThatIsTooLong(t *testing.T) {
	t.Parallel()
	client, err := Dial(filepath.Join(t.TempDir(), strings.Repeat("x", 108)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "too long for the path of a socket") {
		t.Errorf("%v", err)
	}
}
