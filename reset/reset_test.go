package reset_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/reset"
)

var quiet = slog.New(slog.DiscardHandler)

var _ reset.Ledger = (*pool.Keeper)(nil)

func TestRecoveryResetsWhoWasTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.recover("p") // nobody was told
	r.keep.Told("off")
	r.recover("off") // not opted in
	r.recover("gone")
	r.keep.Told("p")
	r.recover("p")
	e := r.events(1)[0]
	if e.Kind != pool.EventAuthReset || e.Pool != "p" || e.Target != "box" || e.Reason != "" ||
		e.Detail != "hermes auth reset openai-codex as 10000:10000 in container box, status 0 after 1s: done" {
		t.Errorf("%+v", e)
	}
	r.settled()
	r.recover("p")
	r.settled()
	r.events(1) // once
	c := r.stage.commands[0]
	if !slices.Equal(c.Argv, []string{"hermes", "auth", "reset", "openai-codex"}) || c.UID != 10000 || c.GID != 10000 || c.Timeout != 30*time.Second {
		t.Errorf("%+v", c)
	}
}

func TestAlwaysResets(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *reset.Options) { o.Always = true })
	r.recover("p")
	r.events(1)
}

// TestSecondRecoveryStartsNoSecondReset recovers four times while the command runs.
func TestSecondRecoveryStartsNoSecondReset(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *reset.Options) { o.Always = true })
	release := make(chan struct{})
	r.stage.exec = func(ctx context.Context, _ reset.Command) (reset.Result, error) {
		<-release
		return reset.Result{}, nil
	}
	r.recover("p")
	<-r.stage.began
	for range 4 {
		r.recover("p")
	}
	_, err := r.reset.Reset(t.Context(), "p")
	var known *pool.Error
	if !errors.As(err, &known) || known.Code != pool.CodeConflict {
		t.Errorf("a person starts another: %v", err)
	}
	close(release)
	r.settled()
	if n := r.stage.ran(); n != 1 {
		t.Errorf("ran %d times", n)
	}
	r.events(1)
}

func TestFailuresAreSaidOnce(t *testing.T) {
	t.Parallel()
	const latched = `{"credential_pool":{"openai-codex":[{"last_status":"exhausted"}]}}`
	for name, c := range map[string]struct {
		pool  string
		exec  func(context.Context, reset.Command) (reset.Result, error)
		files map[string]string
		away  error
		want  string
	}{
		"status":     {exec: ends(3, "usage:\nunknown provider\n\n"), want: "hermes auth reset openai-codex ended with status 3: unknown provider"},
		"silent":     {exec: ends(1, ""), want: "hermes auth reset openai-codex ended with status 1"},
		"time-out":   {exec: func(context.Context, reset.Command) (reset.Result, error) { return reset.Result{TimedOut: true}, nil }, want: "did not end within 30s and was killed"},
		"no command": {exec: fails(fmt.Errorf("exec: %w", reset.ErrNoCommand)), want: "there is no hermes to run in container box"},
		"not found":  {away: fmt.Errorf("container box: %w in containerd", reset.ErrNotFound), want: "container box: not found in containerd"},
		"stopped":    {away: fmt.Errorf("container box is %w", reset.ErrNotRunning), want: "container box is not running"},
		"no effect":  {files: map[string]string{"/.hermes/auth.json": latched}, want: "changed nothing: /.hermes/auth.json still holds 1 of openai-codex"},
		"torn file":  {files: map[string]string{"/.hermes/auth.json": "{"}, want: "/.hermes/auth.json is not JSON"},
		"nobody":     {pool: "loose", want: "names no container, and nothing is attached for it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.stage.set(func() { r.stage.exec, r.stage.away = c.exec, c.away })
			for path, text := range c.files {
				r.stage.set(func() { r.stage.files[path] = text })
			}
			if c.pool == "" {
				c.pool = "p"
			}
			r.keep.Told(c.pool)
			r.recover(c.pool)
			e := r.events(1)[0]
			if e.Kind != pool.EventAuthResetFail || !strings.Contains(e.Reason, c.want) {
				t.Errorf("%+v, want %q", e, c.want)
			}
			r.settled()
			r.stage.set(func() { r.stage.exec, r.stage.away, r.stage.files = nil, nil, nil })
			r.recover(c.pool) // who was not reset is still told
			if e := r.events(2)[1]; c.pool == "p" && e.Kind != pool.EventAuthReset {
				t.Errorf("%+v", e)
			}
		})
	}
}

func ends(status int, output string) func(context.Context, reset.Command) (reset.Result, error) {
	return func(context.Context, reset.Command) (reset.Result, error) {
		return reset.Result{ExitCode: status, Output: []byte(output)}, nil
	}
}

func fails(err error) func(context.Context, reset.Command) (reset.Result, error) {
	return func(context.Context, reset.Command) (reset.Result, error) { return reset.Result{}, err }
}

// TestRuntimeThatIsAwayIsWaitedFor lets the runtime come back after nine minutes, and
// another time not at all.
func TestRuntimeThatIsAwayIsWaitedFor(t *testing.T) {
	for name, back := range map[string]time.Duration{"back": 9 * time.Minute, "away": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.stage.away = fmt.Errorf("containerd: %w", reset.ErrUnavailable)
				time.AfterFunc(back, func() { r.stage.set(func() { r.stage.away = nil }) })
				began := time.Now()
				r.keep.Told("p")
				r.recover("p")
				e := r.events(1)[0]
				took := time.Since(began)
				if name == "back" && (e.Kind != pool.EventAuthReset || took < back || took > back+31*time.Second) {
					t.Errorf("after %s: %+v", took, e)
				}
				if name == "away" && (e.Kind != pool.EventAuthResetFail || took > 10*time.Minute || took < 9*time.Minute) {
					t.Errorf("after %s: %+v", took, e)
				}
				r.end()
				r.end = func() {}
			})
		})
	}
}

// TestAgentsWhoseFilesDoNotAnswer: an agent's file system may be one of its own. That keeps no other agent from its reset, is
// asked once until it answers, and does not keep the daemon from its end.
func TestAgentsWhoseFilesDoNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *reset.Options) {
			o.Agents = func(string) []reset.Agent {
				return []reset.Agent{{Kind: reset.InCgroup, Ref: "hung"}, {Kind: reset.InCgroup, Ref: "fine"}}
			}
		})
		over := make(chan struct{})
		r.stage.hung = map[string]chan struct{}{"hung": over}
		for round := range 2 {
			r.keep.Told("loose")
			r.recover("loose")
			all := r.events(2 * (round + 1))[2*round:]
			if all[0].Kind != pool.EventAuthResetFail || !strings.Contains(all[0].Reason, "do not answer") || all[1].Kind != pool.EventAuthReset {
				t.Errorf("round %d: %+v", round, all)
			}
			r.settled()
		}
		if n := r.stage.reads["hung"]; n != 1 {
			t.Errorf("what hangs was asked %d times", n)
		}
		r.end()
		r.run()
		r.keep.Told("loose")
		r.recover("loose")
		synctest.Wait()
		r.end()
		r.end = func() {}
		close(over)
		synctest.Wait()
		if n := r.stage.ran(); n != 2 {
			t.Errorf("%d commands were begun", n)
		}
	})
}

// TestPlanOfAgentsWhoseFilesDoNotAnswer: who asks what would be run is told so, and what of the others.
func TestPlanOfAgentsWhoseFilesDoNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *reset.Options) {
			o.Agents = func(string) []reset.Agent {
				return []reset.Agent{{Kind: reset.InCgroup, Ref: "hung"}, {Kind: reset.InCgroup, Ref: "stuck"}, {Kind: reset.InCgroup, Ref: "fine"}}
			}
		})
		over := make(chan struct{})
		r.stage.set(func() { r.stage.hung = map[string]chan struct{}{"hung": over, "stuck": over} })
		defer close(over)
		for round := range 2 {
			planned := make(chan []reset.Outcome, 1)
			go func() {
				out, err := r.reset.Plan(t.Context(), "loose")
				if err != nil {
					t.Error(err)
				}
				planned <- out
			}()
			select {
			case out := <-planned:
				if len(out) != 3 || !strings.Contains(out[0].Reason, "do not answer") || !strings.Contains(out[1].Reason, "do not answer") ||
					out[2].Reason != "" || len(out[2].Command.Argv) == 0 {
					t.Errorf("round %d: %+v", round, out)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("round %d: nothing is said", round)
			}
		}
		if n := r.stage.reads["hung"]; n != 1 {
			t.Errorf("what hangs was asked %d times", n)
		}
	})
}

// TestDaemonKilledInTheMiddle: what was begun is begun once more, and then given up.
func TestDaemonKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.stage.exec = func(ctx context.Context, _ reset.Command) (reset.Result, error) {
		<-ctx.Done()
		return reset.Result{}, ctx.Err()
	}
	r.keep.Told("p")
	r.recover("p")
	<-r.stage.began
	r.restart()
	<-r.stage.began
	r.restart()
	e := r.events(1)[0]
	if n := r.stage.ran(); n != 2 || e.Kind != pool.EventAuthResetFail || !strings.Contains(e.Reason, "interrupted 2 times") {
		t.Errorf("ran %d times, %+v", n, e)
	}
}

func TestDaemonKilledOnceResetsAfterAll(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.stage.exec = func(ctx context.Context, _ reset.Command) (reset.Result, error) {
		<-ctx.Done()
		return reset.Result{}, ctx.Err()
	}
	r.keep.Told("p")
	r.recover("p")
	<-r.stage.began
	r.stage.set(func() { r.stage.exec = nil })
	r.restart()
	if e := r.events(1)[0]; e.Kind != pool.EventAuthReset {
		t.Errorf("%+v", e)
	}
}

// TestNoticeComesFirst does not let the command begin before the notice is out.
func TestNoticeComesFirst(t *testing.T) {
	t.Parallel()
	noticed := make(chan struct{})
	r := newRig(t, func(o *reset.Options) {
		o.Noticed = func(ctx context.Context, seq int64) error {
			if seq != 1 {
				t.Errorf("waits for the notice of %d", seq)
			}
			<-noticed
			return nil
		}
	})
	r.keep.Told("p")
	r.recover("p")
	if r.stage.ran() != 0 {
		t.Error("ran before the notice")
	}
	close(noticed)
	r.events(1)
}

// TestChannelThatIsDownDelaysAReset for a few seconds, and not for ever.
func TestChannelThatIsDownDelaysAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *reset.Options) {
			o.Noticed = func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }
		})
		r.keep.Told("p")
		began := time.Now()
		r.recover("p")
		r.events(1)
		if took := time.Since(began); took < time.Second || took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		r.end()
		r.end = func() {}
	})
}

// flaky fails at the next look at what is due, if it is told to.
type flaky struct {
	reset.Ledger
	fail atomic.Bool
}

func (f *flaky) DueResets(ctx context.Context) ([]pool.DueReset, error) {
	if f.fail.Swap(false) {
		return nil, errors.New("the disk fails")
	}
	return f.Ledger.DueResets(ctx)
}

// TestWhatCannotBeReadIsReadAgain: nothing else would have the reset begin.
func TestWhatCannotBeReadIsReadAgain(t *testing.T) {
	t.Parallel()
	var ledger *flaky
	r := newRig(t, func(o *reset.Options) {
		ledger = &flaky{Ledger: o.Ledger}
		o.Ledger = ledger
	})
	if _, err := r.reset.Reset(t.Context(), "p"); err != nil { // it runs
		t.Fatal(err)
	}
	ledger.fail.Store(true)
	r.keep.Told("p")
	r.recover("p")
	r.events(2)
}

// slow takes its time with what it has read, if it is told to.
type slow struct {
	reset.Ledger
	next atomic.Pointer[func()]
}

func (s *slow) DueResets(ctx context.Context) ([]pool.DueReset, error) {
	due, err := s.Ledger.DueResets(ctx)
	if wait := s.next.Swap(nil); wait != nil {
		(*wait)()
	}
	return due, err
}

// TestWhatEndsWhileItIsListedIsNotDoneAgain: a reset ends between another look at what is due and what follows from that.
func TestWhatEndsWhileItIsListedIsNotDoneAgain(t *testing.T) {
	t.Parallel()
	var ledger *slow
	r := newRig(t, func(o *reset.Options) {
		o.Always = true
		ledger = &slow{Ledger: o.Ledger}
		o.Ledger = ledger
	})
	end := make(chan struct{})
	r.stage.exec = func(context.Context, reset.Command) (reset.Result, error) {
		<-end
		return reset.Result{}, nil
	}
	r.recover("p")
	<-r.stage.began
	listed := make(chan struct{})
	wait := func() {
		close(end)
		for at := time.Now(); time.Since(at) < 5*time.Second; time.Sleep(time.Millisecond) {
			if due, err := r.keep.DueResets(context.Background()); err == nil && len(due) == 1 {
				break // loose
			}
		}
		time.Sleep(100 * time.Millisecond) // for whoever ended it to say so
		close(listed)
	}
	ledger.next.Store(&wait)
	r.recover("loose") // has it look
	<-listed
	time.Sleep(100 * time.Millisecond) // for it to begin again
	r.settled()
	for _, e := range r.events(2) {
		if e.Pool == "p" && e.Kind != pool.EventAuthReset {
			t.Errorf("%+v", e)
		}
	}
}

// TestNobodyWaitsInVain: of many who ask one after the other, each gets an answer.
func TestNobodyWaitsInVain(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.stage.began = make(chan struct{}, 1000)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 50 {
				var known *pool.Error
				if _, err := r.reset.Reset(ctx, "p"); err != nil && (!errors.As(err, &known) || known.Code != pool.CodeConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
}
