package store

import (
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

func addEvents(t *testing.T, db *DB, n int) {
	t.Helper()
	c := pool.Change{At: time.Unix(1795455000, 0)}
	for range n {
		c.Events = append(c.Events, pool.Event{Kind: pool.EventDenied})
	}
	if err := db.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func TestCursors(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, t.TempDir())
	cursor := func(name string, want int64) {
		t.Helper()
		if seq, err := db.Cursor(t.Context(), name); err != nil || seq != want {
			t.Fatalf("cursor %s at %d, %v; want %d", name, seq, err, want)
		}
	}
	cursor("first", 0)
	addEvents(t, db, 10)
	cursor("first", 0)
	cursor("late", 10) // what was before it is not its business
	for _, move := range []struct{ to, want int64 }{{4, 4}, {2, 4}, {7, 7}} {
		if err := db.SetCursor(t.Context(), "first", move.to); err != nil {
			t.Fatal(err)
		}
		cursor("first", move.want)
	}
	if n, err := db.CountAfter(t.Context(), 7); err != nil || n != 3 {
		t.Fatalf("%d events to come, %v", n, err)
	}
	prune := func(keep, want int64) {
		t.Helper()
		if n, err := db.PruneEvents(t.Context(), keep); err != nil || n != want {
			t.Fatalf("pruned %d, %v; want %d", n, err, want)
		}
	}
	prune(6, 4)  // 1..4
	prune(1, 3)  // 5..7: the reader is at 7
	prune(1, 0)  // nothing more while it stays there
	prune(10, 0) // fewer than are to be kept
	if err := db.KeepReaders(t.Context(), []string{"late", "new"}); err != nil {
		t.Fatal(err)
	}
	prune(1, 2) // 8, 9: who held them is gone
	addEvents(t, db, 1)
	if events, err := db.EventsAfter(t.Context(), 0, 10); err != nil || len(events) != 2 || events[1].Seq != 11 {
		t.Fatalf("%+v, %v", events, err)
	}
	cursor("first", 11) // a reader that comes back is new
}

func TestEventFactsAreKept(t *testing.T) {
	t.Parallel()
	db := mustOpen(t, t.TempDir())
	at := time.Unix(1795455000, 0).UTC()
	e := pool.Event{
		Kind: pool.EventFailover, Pool: "p", Member: "a", To: "b", Reason: "r", Detail: "d", Target: "t",
		Until: at.Add(time.Hour), Since: at.Add(-time.Hour), Members: 2, Actor: "unix:0/root",
	}
	if err := db.Apply(t.Context(), pool.Change{Events: []pool.Event{e}, At: at}); err != nil {
		t.Fatal(err)
	}
	e.Seq, e.Time = 1, at
	if events, err := db.LastEvents(t.Context(), 1); err != nil || len(events) != 1 || events[0] != e {
		t.Fatalf("%+v, %v; want %+v", events, err, e)
	}
}
