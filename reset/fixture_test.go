package reset_test

import (
	"context"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
	"github.com/sluice-proxy/sluice/reset"
)

// stage is a runtime that does what a test says. The real ones are tested where they are.
type stage struct {
	mu       sync.Mutex
	files    map[string]string
	away     error // of every method
	exec     func(ctx context.Context, c reset.Command) (reset.Result, error)
	commands []reset.Command
	began    chan struct{}            // gets a value when a command begins
	hung     map[string]chan struct{} // by agent: until it is closed no file is read
	reads    map[string]int           // by agent
}

func newStage() *stage {
	return &stage{files: make(map[string]string), began: make(chan struct{}, 100), reads: make(map[string]int)}
}

func (s *stage) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *stage) Environment(context.Context, string, uint32) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []string{"PATH=/bin"}, s.away
}

func (s *stage) ReadFile(_ context.Context, agent, path string, _ int64) ([]byte, error) {
	s.mu.Lock()
	s.reads[agent]++
	hung := s.hung[agent]
	s.mu.Unlock()
	if hung != nil {
		<-hung
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok := s.files[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(text), s.away
}

func (s *stage) Exec(ctx context.Context, _ string, c reset.Command) (reset.Result, error) {
	s.mu.Lock()
	s.commands = append(s.commands, c)
	exec := s.exec
	s.mu.Unlock()
	s.began <- struct{}{}
	if exec == nil {
		return reset.Result{Took: time.Second, Output: []byte("done\n")}, nil
	}
	return exec(ctx, c)
}

func (s *stage) ran() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.commands)
}

// rig is a resetter on a real keeper, with the pools p (resets "openai-codex" in "box")
// and off (resets nothing).
type rig struct {
	t      *testing.T
	dir    string
	db     *store.DB
	keep   *pool.Keeper
	stage  *stage
	reset  *reset.Resetter
	change func(*reset.Options)
	end    func()
	seq    int64
}

func newRig(t *testing.T, change func(*reset.Options)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), stage: newStage(), change: change}
	r.open()
	for _, p := range []pool.Pool{
		{Name: "p", Provider: "openai", AuthResetTarget: "openai-codex", Container: "box"},
		{Name: "off", Provider: "anthropic"},
		{Name: "loose", Provider: "github", AuthResetTarget: "x"},
	} {
		p.Members = []string{"of-" + p.Name}
		if _, err := r.keep.AddCredential(t.Context(), pool.CredentialSpec{Name: p.Members[0], Secret: vault.NewSecret([]byte("sk"))}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.keep.CreatePool(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	r.run()
	t.Cleanup(r.close)
	return r
}

func (r *rig) open() {
	r.t.Helper()
	ctx := context.Background()
	var err error
	if r.db, err = store.Open(ctx, r.dir); err != nil {
		r.t.Fatal(err)
	}
	v, err := vault.Open(vault.Options{File: filepath.Join(r.dir, "identity")})
	if err != nil {
		r.t.Fatal(err)
	}
	if r.keep, err = pool.NewKeeper(ctx, pool.Options{Store: r.db, Vault: v, Log: quiet}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) run() {
	options := reset.Options{
		Pools: r.keep, Ledger: r.keep, Agents: func(string) []reset.Agent { return nil },
		Runtimes: map[reset.Kind]reset.Runtime{reset.InContainer: r.stage, reset.InCgroup: r.stage},
	}
	if r.change != nil {
		r.change(&options)
	}
	r.reset = reset.New(options)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.reset.Run(ctx) }()
	r.end = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	}
}

func (r *rig) close() {
	r.end()
	r.keep.Close()
	_ = r.db.Close()
}

// restart is another daemon on the same state.
func (r *rig) restart() {
	r.t.Helper()
	r.close()
	r.open()
	r.run()
}

// recover delivers that a pool has recovered.
func (r *rig) recover(name string) {
	r.t.Helper()
	r.seq++
	if err := r.reset.Deliver(r.t.Context(), []pool.Event{{Kind: pool.EventExhausted, Pool: name, Seq: r.seq}, {Kind: pool.EventRecovered, Pool: name, Seq: r.seq}}); err != nil {
		r.t.Fatal(err)
	}
}

// events waits until n resets have ended and returns their events.
func (r *rig) events(n int) []pool.Event {
	r.t.Helper()
	deadline := time.After(time.Hour)
	for {
		added := r.keep.EventAdded()
		events, err := r.keep.EventsAfter(r.t.Context(), 0, 1000)
		if err != nil {
			r.t.Fatal(err)
		}
		events = slices.DeleteFunc(events, func(e pool.Event) bool {
			return e.Kind != pool.EventAuthReset && e.Kind != pool.EventAuthResetFail
		})
		if len(events) >= n {
			if len(events) > n {
				r.t.Fatalf("%d resets ended, want %d: %+v", len(events), n, events)
			}
			return events
		}
		select {
		case <-added:
		case <-deadline:
			r.t.Fatalf("%d resets ended, want %d", len(events), n)
		}
	}
}

// settled waits until no reset is due any more.
func (r *rig) settled() {
	r.t.Helper()
	for deadline := time.Now().Add(time.Hour); ; time.Sleep(time.Millisecond) {
		due, err := r.keep.DueResets(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		if len(due) == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("still due: %+v", due)
		}
	}
}
