package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sluice-proxy/sluice/pool"
)

func TestMain(m *testing.M) {
	if os.Getenv(writerEnv) != "" {
		write(os.Getenv(writerEnv))
		return
	}
	goleak.VerifyTestMain(m)
}

var start = time.Date(2026, 11, 23, 22, 10, 0, 0, time.UTC)

func event(seq int64) pool.Event {
	return pool.Event{Seq: seq, Time: start.Add(time.Duration(seq) * time.Second), Kind: pool.EventFailover, Pool: "main", Member: "a", To: "b"}
}

func events(from, to int64) []pool.Event {
	var all []pool.Event
	for seq := from; seq <= to; seq++ {
		all = append(all, event(seq))
	}
	return all
}

// place is a state folder of a test.
type place struct{ dir, key string }

func newPlace(t testing.TB) place {
	t.Helper()
	// In memory, where there is such a folder: these tests start and sync thousands of times.
	state, err := os.MkdirTemp("/dev/shm", "sluice-audit-")
	if err != nil {
		state = t.TempDir()
	} else {
		t.Cleanup(func() { _ = os.RemoveAll(state) })
	}
	return place{dir: filepath.Join(state, "audit"), key: filepath.Join(state, "audit.key")}
}

func (p place) options() Options {
	return Options{Dir: p.dir, KeyFile: p.key, Now: func() time.Time { return start }}
}

func (p place) file(name string) string { return filepath.Join(p.dir, name) }

func (p place) open(t testing.TB, change func(*Options)) *Log {
	t.Helper()
	o := p.options()
	if change != nil {
		change(&o)
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func deliver(t testing.TB, l *Log, e []pool.Event) {
	t.Helper()
	if err := l.Deliver(context.Background(), e); err != nil {
		t.Fatal(err)
	}
}

// holds verifies, and wants the seqs up to last, each once.
func (p place) holds(t testing.TB, last int64) Report {
	t.Helper()
	r, err := Verify(p.dir, p.key)
	if err != nil {
		t.Fatal(err)
	}
	if int64(r.Lines) != last || r.LastSeq != last || last > 0 && r.FirstSeq != 1 {
		t.Fatalf("%+v, want lines 1 to %d", r, last)
	}
	return r
}

// broken verifies, and wants the place where the log breaks.
func (p place) broken(t testing.TB) *BrokenError {
	t.Helper()
	r, err := Verify(p.dir, p.key)
	var b *BrokenError
	if !errors.As(err, &b) {
		t.Fatalf("nothing is noticed: %+v, %v", r, err)
	}
	if b.Line < 1 || b.Reason == "" {
		t.Fatalf("does not say where and why: %v", b)
	}
	return b
}

// tree is a folder's files.
type tree map[string]string

func read(t testing.TB, dir string) tree {
	t.Helper()
	all := tree{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(data)
	}
	return all
}

func (all tree) write(t testing.TB, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range all {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (all tree) with(name, data string) tree {
	other := tree{}
	for n, d := range all {
		other[n] = d
	}
	other[name] = data
	return other
}

func (all tree) without(name string) tree {
	other := all.with(name, "")
	delete(other, name)
	return other
}

func TestLines(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open(t, nil)
	full := pool.Event{
		Seq: 7, Time: start.In(time.FixedZone("", 3600)), Kind: pool.EventExhausted, Pool: "p<1>", Member: "m", Target: "t", Reason: "r\n",
		Detail: "d\"\u2028", To: "n", Until: start.Add(time.Hour), Since: start, Members: 2,
	}
	deliver(t, l, []pool.Event{full, {Seq: 9}})
	got := strings.Split(read(t, p.dir)[currentName], "\n")
	if len(got) != 3 || got[2] != "" {
		t.Fatalf("%q", got)
	}
	for i, want := range []string{
		`{"seq":7,"time":"2026-11-23T22:10:00Z","kind":"pool_exhausted","pool":"p<1>","member":"m","target":"t","reason":"r\n",` +
			`"detail":"d\"\u2028","to":"n","until":"2026-11-23T23:10:00Z","since":"2026-11-23T22:10:00Z","members":2,"head":1,"prev":"` + noMAC + `","mac":"`,
		`{"seq":9,"time":"0001-01-01T00:00:00Z","kind":"","pool":"","member":"","target":"","reason":"","detail":"","head":1,"prev":"`,
	} {
		if !strings.HasPrefix(got[i], want) {
			t.Errorf("line %d:\n%s\nwant:\n%s", i+1, got[i], want)
		}
	}
	for _, name := range []string{p.key, p.file(currentName), p.file(headName)} {
		if info, err := os.Stat(name); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(p.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// What an event cannot sensibly hold must not stop the log.
func TestOddEvents(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open(t, nil)
	deliver(t, l, []pool.Event{
		{Seq: 1, Time: time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC), Until: time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC)},
		{Seq: 2, Detail: strings.Repeat("\x00", 1<<20), Reason: strings.Repeat("é", 1<<20), Pool: strings.Repeat("\xff", 1<<20)},
		{Seq: 3, Kind: "\xff\x00\n\r"},
	})
	p.holds(t, 3)
	deliver(t, p.open(t, nil), events(4, 4))
	p.holds(t, 4)
}

func TestDeliverOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	l := p.open(t, nil)
	deliver(t, l, events(1, 3))
	deliver(t, l, events(1, 3))
	deliver(t, l, nil)
	deliver(t, l, events(2, 5))
	if s := l.Stats(); s.Lines != 5 || s.Skipped != 0 {
		t.Errorf("%+v", s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = p.open(t, nil)
	deliver(t, l, events(4, 6))
	r := p.holds(t, 6)
	want := Report{Lines: 6, Files: 1, FirstSeq: 1, LastSeq: 6, FirstTime: event(1).Time, LastTime: event(6).Time}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	// A database that was made anew counts from 1 again: that is not passed over in silence.
	again := event(2)
	again.Time = event(100).Time
	deliver(t, l, []pool.Event{again})
	if s := l.Stats(); s.Skipped != 1 {
		t.Errorf("%+v", s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Deliver(t.Context(), events(7, 7)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.open(t, nil).Deliver(ctx, events(7, 7)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	p.holds(t, 6)
}

func TestRotation(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	small := func(o *Options) { o.MaxSize, o.Keep = 1000, 3 }
	l := p.open(t, small)
	for seq := int64(1); seq <= 40; seq++ {
		deliver(t, l, events(seq, seq))
		if seq%7 == 0 {
			_ = l.Close()
			l = p.open(t, small)
		}
	}
	r, err := Verify(p.dir, p.key)
	if err != nil {
		t.Fatal(err)
	}
	if r.Files != 4 || r.LastSeq != 40 || r.FirstSeq == 1 || !r.Dropped || int64(r.Lines) != 41-r.FirstSeq {
		t.Errorf("%+v", r)
	}
	all := read(t, p.dir)
	if _, ok := all[segmentName(r.FirstSeq)]; !ok || len(all) != 5 {
		t.Errorf("files: %v, first seq %d", keys(all), r.FirstSeq)
	}
	for name, data := range all {
		if len(data) > 1000 {
			t.Errorf("%s has %d bytes", name, len(data))
		}
	}
	// Any rotated file can be checked by itself.
	for name := range all {
		if name == headName {
			continue
		}
		if one, err := VerifyFile(p.file(name), p.key); err != nil || one.Lines == 0 || one.Files != 1 {
			t.Errorf("%s: %+v, %v", name, one, err)
		}
	}
	// Keep of a later start counts for what is there already.
	_ = l.Close()
	l = p.open(t, func(o *Options) { o.MaxSize, o.Keep = 1000, 1 })
	deliver(t, l, events(41, 60))
	if r, err = Verify(p.dir, p.key); err != nil || r.Files != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	_ = l.Close()
	l = p.open(t, func(o *Options) { o.MaxSize, o.Keep = 1, -1 })
	for seq := int64(61); seq <= 90; seq++ {
		deliver(t, l, events(seq, seq))
	}
	if r, err = Verify(p.dir, p.key); err != nil || r.Files != 32 {
		t.Errorf("%+v, %v", r, err)
	}
}

func keys(all tree) []string {
	var names []string
	for name := range all {
		names = append(names, name)
	}
	return names
}

func TestKey(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		do   func(p place) error
		want string
	}{
		{"short", func(p place) error { return os.Truncate(p.key, 31) }, "31 bytes, not 32"},
		{"long", func(p place) error { return os.Truncate(p.key, 33) }, "33 bytes, not 32"},
		{"empty", func(p place) error { return os.Truncate(p.key, 0) }, "0 bytes"},
		{"readable", func(p place) error { return os.Chmod(p.key, 0o640) }, "mode 0640"},
		{"missing", func(p place) error { return os.Remove(p.key) }, "is missing"},
		{"a folder", func(p place) error { return errors.Join(os.Remove(p.key), os.Mkdir(p.key, 0o700)) }, "not a regular file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			l := p.open(t, nil)
			deliver(t, l, events(1, 2))
			_ = l.Close()
			before := read(t, p.dir)
			secret, err := os.ReadFile(p.key)
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.do(p); err != nil {
				t.Fatal(err)
			}
			_, openErr := Open(p.options())
			if openErr == nil || !strings.Contains(openErr.Error(), tc.want) || !strings.Contains(openErr.Error(), p.key) {
				t.Errorf("Open: %v, want %q", openErr, tc.want)
			}
			if _, err := Verify(p.dir, p.key); err == nil || errors.Is(err, ErrNoLog) {
				t.Errorf("Verify: %v", err)
			}
			if bytes.Contains([]byte(fmt.Sprint(openErr)), secret) {
				t.Error("the key is in the error")
			}
			if diff := cmp.Diff(before, read(t, p.dir)); diff != "" {
				t.Errorf("the log was changed:\n%s", diff)
			}
		})
	}
}

// The first start may be killed between its steps as well.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if _, err := Verify(p.dir, p.key); !errors.Is(err, ErrNoLog) {
		t.Errorf("before the first start: %v", err)
	}
	_ = p.open(t, nil).Close()
	p.holds(t, 0)
	if err := os.Remove(p.key); err != nil { // as if killed before the key was published
		t.Fatal(err)
	}
	if err := os.Remove(p.file(currentName)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l := p.open(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	deliver(t, l, events(1, 1))
	p.holds(t, 1)
	if log.Len() > 0 {
		t.Errorf("a first start complains: %s", &log)
	}
	_ = l.Close()
	// A log that is gone although the key is there was taken away.
	if err := os.RemoveAll(p.dir); err != nil {
		t.Fatal(err)
	}
	p.broken(t)
	deliver(t, p.open(t, nil), events(2, 2))
	if b := p.broken(t); b.File != p.file(headName) || !strings.Contains(b.Reason, "it is missing") {
		t.Errorf("%v", b)
	}
}
