package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// defaultLimit is how many events are listed unless another number is asked for.
const defaultLimit = 100

// ListEvents answers GET /api/events.
func (s *Server) ListEvents(w http.ResponseWriter, r *http.Request, p ListEventsParams) {
	after, limit := int64(-1), defaultLimit
	if p.Limit != nil {
		limit = *p.Limit
	}
	if p.After != nil {
		after = *p.After
	} else if p.LastEventID != nil {
		after = *p.LastEventID
	}
	if wantsStream(r) {
		s.streamEvents(w, r, after, limit)
		return
	}
	events, err := s.ops.ListEvents(r.Context(), after, limit)
	s.answer(w, r, http.StatusOK, newEvents(events), err)
}

func wantsStream(r *http.Request) bool {
	for _, accepted := range strings.Split(r.Header.Get("Accept"), ",") {
		if kind, _, err := mime.ParseMediaType(accepted); err == nil && kind == "text/event-stream" {
			return true
		}
	}
	return false
}

// streamEvents sends events as they happen (HTML Living Standard, 9.2 Server-sent events).
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request, after int64, limit int) {
	ctx, cancel := joined(r.Context(), s.streams)
	defer cancel()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	// A stream lasts; each piece of it has to be taken in time.
	_ = out.SetWriteDeadline(time.Time{})
	if err := out.Flush(); err != nil {
		return
	}
	err := s.ops.FollowEvents(ctx, after, limit, func(events []pool.Event) error {
		if !counts(r) {
			return errClosed
		}
		var block bytes.Buffer
		for _, event := range newEvents(events) {
			data, err := json.Marshal(event)
			if err != nil {
				return err
			}
			fmt.Fprintf(&block, "id: %d\nevent: %s\ndata: %s\n\n", event.Seq, event.Kind, data)
		}
		_ = out.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := w.Write(block.Bytes()); err != nil {
			return errClosed
		}
		if err := out.Flush(); err != nil {
			return errClosed
		}
		_ = out.SetWriteDeadline(time.Time{})
		return nil
	})
	if ctx.Err() == nil && !errors.Is(err, errClosed) {
		s.log.Error("event stream ended", "error", err)
	}
}

// errClosed says that the client of a stream has gone, or is let in no more.
var errClosed = errors.New("client closed the stream")

func newEvents(events []pool.Event) []Event {
	list := make([]Event, 0, len(events))
	for _, e := range events {
		list = append(list, Event{
			Seq: e.Seq, Time: e.Time.UTC(), Kind: string(e.Kind), Pool: e.Pool, Member: e.Member,
			Target: e.Target, Reason: e.Reason, Detail: e.Detail, To: e.To, Until: instant(e.Until), Since: instant(e.Since), Members: e.Members, Actor: e.Actor,
		})
	}
	return list
}
