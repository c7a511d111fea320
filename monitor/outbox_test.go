package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/monitor/notice"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// world is a keeper on a real store; its clock is the bubble's.
type world struct {
	*pool.Keeper
	db *store.DB
}

func open(t *testing.T, dir string) *world {
	t.Helper()
	db, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(vault.Options{File: filepath.Join(dir, "identity")})
	if err != nil {
		t.Fatal(err)
	}
	k, err := pool.NewKeeper(t.Context(), pool.Options{Store: db, Vault: v, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), ProbeInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	return &world{k, db}
}

func (w *world) close(t *testing.T) {
	t.Helper()
	w.Close()
	if err := w.db.Close(); err != nil {
		t.Error(err)
	}
}

// watch runs a monitor until the returned function is called.
func (w *world) watch(t *testing.T, channels ...Channel) (stop func()) {
	t.Helper()
	m, err := New(t.Context(), Options{Pools: w, Events: w, Cursors: w.db, Channels: channels})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.run(ctx, bubbleAlarm{}, steadyClock) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// bubbleAlarm waits in the bubble's time, which the kernel's timers know nothing of.
type bubbleAlarm struct{}

func (bubbleAlarm) wait(ctx context.Context, at time.Time, changed <-chan struct{}) error {
	var rings <-chan time.Time
	if !at.IsZero() {
		timer := time.NewTimer(time.Until(at))
		defer timer.Stop()
		rings = timer.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-rings:
	}
	return nil
}

func steadyClock() (anchor, error) { return anchor{BootID: "one"}, nil }

// inbox is a channel that fails while it is down.
type inbox struct {
	name string
	wait time.Duration // of its errors

	mu    sync.Mutex
	down  bool
	tries int
	seqs  []int64
	texts []string
}

type downError struct{ wait time.Duration }

func (e downError) Error() string             { return "down" }
func (e downError) RetryAfter() time.Duration { return e.wait }

func (i *inbox) Name() string { return i.name }

func (i *inbox) Send(_ context.Context, n notice.Notice) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tries++
	if i.down {
		return fmt.Errorf("send: %w", downError{i.wait})
	}
	i.seqs = append(i.seqs, n.Event.Seq)
	i.texts = append(i.texts, n.Text)
	return nil
}

func (i *inbox) set(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

func (i *inbox) tried() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.tries
}

func (i *inbox) got() []int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.seqs)
}

func (w *world) record(t *testing.T, n int) {
	t.Helper()
	for range n {
		if err := w.Record(t.Context(), pool.Event{Kind: pool.EventRecovered, Pool: "p", Member: "a"}); err != nil {
			t.Fatal(err)
		}
		if err := w.Record(t.Context(), pool.Event{Kind: pool.EventDenied}); err != nil { // no notice
			t.Fatal(err)
		}
	}
}

// TestAChannelThatWasDownForAnHour gets each notice once and in order, and is no
// reason for another to wait.
func TestAChannelThatWasDownForAnHour(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := open(t, dir)
		defer w.close(t)
		chat, mail := &inbox{name: "chat"}, &inbox{name: "mail"}
		stop := w.watch(t, chat, mail)
		chat.set(true)
		for range 60 {
			w.record(t, 1)
			time.Sleep(time.Minute)
		}
		if got := mail.got(); len(got) != 60 {
			t.Errorf("the other channel got %d of 60", len(got))
		}
		if chat.tried() > 40 || chat.tried() < 12 {
			t.Errorf("tried %d times in an hour, want about one in five minutes", chat.tried())
		}
		chat.set(false)
		time.Sleep(8 * time.Minute)
		if !slices.Equal(chat.got(), mail.got()) || !slices.IsSorted(chat.got()) {
			t.Errorf("got %v, want %v", chat.got(), mail.got())
		}
		stop()
	})
}

func TestAChannelSaysWhenToTryAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := open(t, dir)
		defer w.close(t)
		chat := &inbox{name: "chat", wait: 20 * time.Minute, down: true}
		stop := w.watch(t, chat)
		w.record(t, 1)
		time.Sleep(19 * time.Minute)
		if chat.tried() != 1 {
			t.Errorf("tried %d times, and was told to wait", chat.tried())
		}
		stop()
	})
}

// TestAChannelThatIsBusyIsNotKeptWaitingLonger: after an outage, with its long pauses, a channel that asks for half a
// minute gets the notice after that, not after another long pause.
func TestAChannelThatIsBusyIsNotKeptWaitingLonger(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := open(t, dir)
		defer w.close(t)
		chat := &inbox{name: "chat", down: true}
		stop := w.watch(t, chat)
		w.record(t, 1)
		time.Sleep(time.Hour)
		chat.mu.Lock()
		chat.wait = 30 * time.Second
		chat.mu.Unlock()
		for before := chat.tried(); chat.tried() == before; {
			time.Sleep(100 * time.Millisecond)
		}
		before := chat.tried()
		time.Sleep(29 * time.Second)
		if n := chat.tried() - before; n != 0 {
			t.Errorf("tried %d times in the pause that it asked for", n)
		}
		chat.set(false)
		time.Sleep(2 * time.Second)
		if len(chat.got()) != 1 {
			t.Error("not delivered when the pause that it asked for was over")
		}
		stop()
	})
}

// TestWhatWasNotDeliveredSurvivesARestart stops the daemon while one channel is down,
// and starts it with one channel less and one more.
func TestWhatWasNotDeliveredSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := open(t, dir)
		chat, mail := &inbox{name: "chat", down: true}, &inbox{name: "mail"}
		stop := w.watch(t, chat, mail)
		w.record(t, 3)
		time.Sleep(time.Minute)
		stop()
		w.record(t, 2) // while no monitor runs
		w.close(t)

		w = open(t, dir)
		defer w.close(t)
		chat.set(false)
		fresh := &inbox{name: "fresh"}
		stop = w.watch(t, chat, fresh)
		time.Sleep(time.Minute)
		w.record(t, 1)
		time.Sleep(time.Minute)
		stop()
		if got := chat.got(); !slices.Equal(got, []int64{1, 3, 5, 7, 9, 11}) {
			t.Errorf("got %v", got)
		}
		if got := fresh.got(); !slices.Equal(got, []int64{11}) {
			t.Errorf("a new channel got %v", got)
		}
		if got := mail.got(); !slices.Equal(got, []int64{1, 3, 5}) {
			t.Errorf("the channel that was taken out got %v", got)
		}
	})
}

func TestTwoReadersOfOneName(t *testing.T) {
	w := open(t, t.TempDir())
	defer w.close(t)
	if _, err := New(t.Context(), Options{Cursors: w.db, Channels: []Channel{&inbox{name: "a"}, &inbox{name: "a"}}}); err == nil {
		t.Error("two channels share a cursor")
	}
}

// failing fails a number of times at what is below it.
type failing struct {
	Cursors
	left int
}

func (f *failing) SetCursor(ctx context.Context, reader string, seq int64) error {
	if f.left > 0 {
		f.left--
		return errors.New("disk full")
	}
	return f.Cursors.SetCursor(ctx, reader, seq)
}

// TestACursorThatCannotBeWritten: on a full disk nobody is told the same again and again, and all is told in order once
// there is room; only a kill repeats the last, whose seq tells.
func TestACursorThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := open(t, dir)
		defer w.close(t)
		chat := &inbox{name: "chat"}
		start := func(failures int) (stop func()) {
			m, err := New(t.Context(), Options{Pools: w, Events: w, Cursors: &failing{w.db, failures}, Channels: []Channel{chat}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- m.run(ctx, bubbleAlarm{}, steadyClock) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		stop := start(10)
		w.record(t, 2)
		time.Sleep(20 * time.Second)
		if got := chat.got(); !slices.Equal(got, []int64{1}) {
			t.Errorf("while nothing can be written: %v", got)
		}
		time.Sleep(2 * time.Hour)
		if got := chat.got(); !slices.Equal(got, []int64{1, 3}) {
			t.Errorf("once it can: %v", got)
		}
		stop()
		stop = start(1 << 30)
		w.record(t, 1)
		time.Sleep(time.Hour)
		stop() // as good as killed: that it was told is nowhere
		stop = start(0)
		time.Sleep(time.Minute)
		stop()
		if got := chat.got(); !slices.Equal(got, []int64{1, 3, 5, 5}) {
			t.Errorf("after a restart: %v", got)
		}
	})
}

// TestAChannelThatWasDownBeforeIsTriedSoon: each outage begins with short pauses.
func TestAChannelThatWasDownBeforeIsTriedSoon(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := open(t, dir)
		defer w.close(t)
		chat := &inbox{name: "chat", down: true}
		stop := w.watch(t, chat)
		w.record(t, 1)
		time.Sleep(time.Hour)
		chat.set(false)
		time.Sleep(8 * time.Minute)
		chat.set(true)
		before := chat.tried()
		w.record(t, 1)
		time.Sleep(20 * time.Second)
		if n := chat.tried() - before; n < 3 {
			t.Errorf("tried %d times in 20 s", n)
		}
		stop()
	})
}

// unwritable are pools whose edges cannot be written at first.
type unwritable struct {
	Pools
	left, asked int
}

func (u *unwritable) Recover(ctx context.Context) (time.Time, error) {
	if u.asked++; u.asked <= u.left {
		return time.Time{}, errors.New("disk full")
	}
	return u.Pools.Recover(ctx)
}

// TestAnEdgeThatCannotBeWrittenIsTriedAgain soon, for nothing else may happen.
func TestAnEdgeThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := open(t, dir)
		defer w.close(t)
		pools := &unwritable{Pools: w, left: 3}
		m, err := New(t.Context(), Options{Pools: pools, Events: w, Cursors: w.db})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- m.run(ctx, bubbleAlarm{}, steadyClock) }()
		time.Sleep(10 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if pools.asked != 4 {
			t.Errorf("tried %d times, want 4", pools.asked)
		}
	})
}
