package telegram

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
	"github.com/sluice-proxy/sluice/reset"
	"github.com/sluice-proxy/sluice/scripts/botapi"
)

const ours = int64(-100200)

// cgroups stands for the data plane, which needs a kernel.
type cgroups struct {
	mu      sync.Mutex
	targets []intercept.Target
}

func (c *cgroups) Attach(_ context.Context, r intercept.Request) (intercept.Target, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := intercept.Target{ID: fmt.Sprintf("t%d", len(c.targets)), Kind: r.Kind, Ref: r.Cgroup, Pools: r.Pools, State: intercept.StateAttached}
	c.targets = append(c.targets, t)
	return t, nil
}

func (c *cgroups) Detach(_ context.Context, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, t := range c.targets {
		if t.ID == id {
			c.targets = append(c.targets[:i:i], c.targets[i+1:]...)
			return nil
		}
	}
	return intercept.ErrNotFound
}

func (c *cgroups) DetachAll(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.targets = nil
	return nil
}

func (c *cgroups) Targets() []intercept.Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]intercept.Target(nil), c.targets...)
}

func (c *cgroups) Connections() int { return 0 }

type kernel struct{}

func (kernel) Adopted() bool                        { return false }
func (kernel) FlowCount() (int, error)              { return 0, nil }
func (kernel) Counters() (map[string]uint64, error) { return nil, nil }

type authority struct{}

func (authority) Bundle() []byte { return []byte("-----BEGIN CERTIFICATE-----\n") }
func (authority) Confide()       {}

// resets stands for agents, which need cgroups to be found in.
type resets struct{}

func (resets) ValidProfile(string) error { return nil }

func (resets) Reset(context.Context, string) ([]reset.Outcome, error) {
	return []reset.Outcome{{Ran: true}, {Ran: true, Reason: "exit status 1"}}, nil
}

func (resets) Plan(context.Context, string) ([]reset.Outcome, error) {
	return []reset.Outcome{{Command: reset.Command{Argv: []string{"hermes", "auth", "reset"}}}}, nil
}

// talk is a bot in a chat, with real operations on a real database.
type talk struct {
	*testing.T
	api    *botapi.Server
	keeper *pool.Keeper
	bot    *Bot
	log    *lockedBuffer
	noted  chan pool.Event
	said   int
	stop   func()
}

// distrust has one process in each target that does not trust the CA.
type distrust struct{}

func (distrust) Untrusting(intercept.Target) []intercept.Untrusting {
	return []intercept.Untrusting{{PID: 7, Process: "node", Reason: "has its roots built in", WayOut: "start it again"}}
}

func newTalk(t *testing.T, api *botapi.Server) *talk {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	k := &talk{T: t, api: api, log: new(lockedBuffer), noted: make(chan pool.Event, 100)}
	log := slog.New(slog.NewTextHandler(k.log, nil))
	secrets, err := vault.Open(vault.Options{File: dir + "/identity"})
	must(err)
	db, err := store.Open(t.Context(), dir)
	must(err)
	k.keeper, err = pool.NewKeeper(t.Context(), pool.Options{Store: db, Vault: secrets, Log: log, Sources: elsewhere{}})
	must(err)
	for _, name := range []string{"a", "b", "c"} {
		_, err = k.keeper.AddCredential(t.Context(), pool.CredentialSpec{Name: name, Secret: vault.NewSecret([]byte("sk-canary-secret"))})
		must(err)
	}
	_, err = k.keeper.CreatePool(t.Context(), pool.Pool{Name: "p", Members: []string{"a", "b"}, Provider: "openai"})
	must(err)
	ops := control.New(control.Options{
		Pools: k.keeper, Members: k.keeper, Credentials: k.keeper, Events: k.keeper, Placeholders: k.keeper,
		Resets: resets{}, AuthResetTargets: k.keeper,
		Targets: new(cgroups), Trust: distrust{}, Kernel: kernel{}, Authority: authority{}, Log: log, Note: func(e pool.Event) { k.noted <- e },
	})
	k.bot, err = NewBot(BotOptions{Token: token, Chats: []int64{ours}, Server: server.URL, Operations: ops, Log: log, Poll: 2 * time.Second})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.bot.Run(ctx) }()
	k.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		k.stop()
		k.keeper.Close()
		_ = db.Close()
		if text := k.log.String(); strings.Contains(text, "canary") {
			t.Errorf("the log has a secret or the token: %s", text)
		}
	})
	return k
}

// command writes a message and returns what the bot says to it.
func (k *talk) command(text string) botapi.Asked {
	k.Helper()
	k.api.Tell(ours, text, time.Now())
	return k.answered()
}

func (k *talk) answered() botapi.Asked {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), 15*time.Second)
	defer cancel()
	answer, err := k.api.Said(ctx, k.said)
	if err != nil {
		k.Fatal(err)
	}
	k.said++
	if strings.Contains(answer.Fields["text"], "canary") {
		k.Errorf("a secret is said: %v", answer)
	}
	return answer
}

// buttons are those under a message.
func buttons(t *testing.T, x botapi.Asked) map[string]string {
	t.Helper()
	all, err := x.Buttons()
	if err != nil {
		t.Error(err)
	}
	return all
}

// expect is command, and what the answer has to hold.
func (k *talk) expect(text string, parts ...string) botapi.Asked {
	k.Helper()
	answer := k.command(text)
	for _, part := range parts {
		if !strings.Contains(answer.Fields["text"], part) {
			k.Errorf("%s is answered %q, which lacks %q", text, answer.Fields["text"], part)
		}
	}
	return answer
}

// choose presses a button of a message and returns the message that comes of it.
func (k *talk) choose(under botapi.Asked, label string) botapi.Asked {
	k.Helper()
	data := buttons(k.T, under)[label]
	if data == "" {
		k.Fatalf("there is no button %q under %v", label, under.Fields)
	}
	k.api.Press(ours, data)
	return k.answered()
}

func (k *talk) active() string {
	k.Helper()
	s, err := k.keeper.PoolStatus(k.Context(), "p")
	if err != nil {
		k.Fatal(err)
	}
	return s.Active
}

func TestCommands(t *testing.T) {
	t.Parallel()
	k := newTalk(t, botapi.New(token))
	k.expect("/help", "/rotate POOL", "sluice cred add")
	k.expect("/start", "/rotate POOL")
	k.expect("/pools@SluiceBot", "p: healthy, a is active of 2")
	k.expect("/status p", `Pool "p" is healthy, "a" is active.`, "• b: standby", "api.openai.com:443")
	k.expect("/status", "1 healthy")
	k.expect("/rotate p", "Rotated.", `"b" is active`)
	k.expect("/clear p a", "Cleared.")
	k.expect("/pool_create q members=c host=Example.com:8443 header=“X-Key: {token}” hold=30s", "Created.", "example.com:8443")
	k.expect("/auth_reset_set p openai", "Set.", "auth reset target: openai")
	k.expect("/reset_agent p dry-run", "would run hermes auth reset")
	k.expect("/reset_agent p", ": reset", "not reset: exit status 1")
	k.expect("/reset_agent p now", "Not done: now: ")
	if cleared := k.command("/auth_reset_clear p"); strings.Contains(cleared.Fields["text"], "auth reset target") {
		t.Errorf("%v", cleared.Fields)
	}
	k.expect("/credentials", "a: static, in pool p", "c: static, in pool q")
	k.expect("/attach cgroup=/agents/one pools=p", "Attached: target t0")
	k.expect("/targets", "t0: attached")
	k.expect("/targets", "does not trust the CA: node (pid 7) has its roots built in: start it again")
	k.expect("/events 3", "pool_created", "by=telegram:-100200/42@kim")
	k.expect("/ca", "BEGIN CERTIFICATE")
	// Errors are those of every other channel.
	k.expect("/status nobody", `Not done: there is no pool "nobody"`)
	k.expect("/rotate", "Not done: POOL is missing: /rotate POOL")
	k.expect("/rotate p q", `"q" is one word too many`)
	k.expect("/member_add p c", `Not done: members: credential "c" is a member of pool "q" already`)
	k.expect("/pool_create r colour=red", "Not done: colour: not one of")
	k.expect("/pool_create r members=a,a provider=openai", "Not done: members:", "twice")
	k.expect("/attach", "Not done: cgroup: ")
	k.expect("/attach pid=x", "Not done: pid: ")
	k.expect("/cred_update a token_url=https://x.example/t", "Not done: token_url: ")
	k.expect("/cred_add d source=file:/there", `Credential "d" is stored, from file:/there.`)
	k.expect("/cred_add d source=file:/there", "Not done: name: ")
	k.expect("/cred_add e source=file:/away", "Not done: source file:/away")
	k.expect("/cred_add e type=static", "Not done: source: is missing")
	k.expect("/cred_update d source=file:/there", "is changed")
	k.expect("/credentials", "d: static, from file:/there")
	k.expect("/events 0", "Not done: number: ")
	k.expect("/fly", "There is no /fly")
	// What is gone for good is asked about first.
	k.expect("/member_remove p nobody", "Take")
	for _, c := range []struct{ ask, done string }{
		{"/member_remove p a", "Taken out."},
		{"/pool_remove p", "Pool \"p\" is removed.\nTarget t0, /agents/one: no pool serves it"},
		{"/cred_remove a", `Credential "a" is forgotten.`},
		{"/detach t0", "Target t0 is detached."},
		{"/detach_all", "Detached 0 targets."},
	} {
		if left := k.choose(k.command(c.ask), "No"); left.Fields["text"] != "Left as it is." {
			t.Errorf("%s, No: %v", c.ask, left.Fields)
		}
		done := k.choose(k.command(c.ask), "Yes")
		if !strings.HasPrefix(done.Fields["text"], c.done) || done.Fields["message_id"] != "88" {
			t.Errorf("%s, Yes: %v", c.ask, done.Fields)
		}
	}
	k.expect("/targets", "Nothing is attached.")
}

// A button does what the person who presses it sees, or nothing.
func TestButtons(t *testing.T) {
	t.Parallel()
	k := newTalk(t, botapi.New(token))
	shown := k.choose(k.command("/pools"), "p")
	first := k.choose(shown, "Rotate")
	second := k.choose(shown, "Rotate")
	if k.active() != "a" {
		t.Fatal("rotated without being asked twice")
	}
	if done := k.choose(first, "Yes"); !strings.HasPrefix(done.Fields["text"], "Rotated.") || k.active() != "b" {
		t.Errorf("%v, %s is active", done.Fields, k.active())
	}
	late := k.choose(second, "Yes")
	if !strings.Contains(late.Fields["text"], "has changed since") || k.active() != "b" || buttons(t, late)["Rotate"] == "" {
		t.Errorf("%v, %s is active", late.Fields, k.active())
	}
	if done := k.choose(k.choose(late, "Clear"), "Yes"); !strings.HasPrefix(done.Fields["text"], "Cleared.") {
		t.Errorf("%v", done.Fields)
	}
	for data, want := range map[string]string{
		"": "Not done", "R": "Not done", "R:000000000000:x": "the pool of this button is gone", "z:1": "Not done",
		"D:1": "target of this button is gone", "K:1": "credential of this button is gone", "M:" + id("p") + "::1": "no such member",
	} {
		k.api.Press(ours, data)
		if answer := k.answered(); !strings.Contains(answer.Fields["text"], want) {
			t.Errorf("%q: %v", data, answer.Fields)
		}
	}
}

// Who is not in a configured chat gets no answer, and is noted once.
func TestStrangers(t *testing.T) {
	t.Parallel()
	k := newTalk(t, botapi.New(token))
	for range 3 {
		k.api.Tell(666, "/rotate p", time.Now())
		k.api.Press(666, versioned(verbRotate, pool.PoolStatus{Name: "p"}, ""))
	}
	k.api.Tell(667, "/status", time.Now())
	k.expect("/status", "healthy") // the first and only thing that is said
	if k.active() != "a" {
		t.Error("a stranger has rotated")
	}
	if len(k.noted) != 2 {
		t.Fatalf("%d are noted", len(k.noted))
	}
	e := <-k.noted
	if e.Kind != pool.EventDenied || e.Actor != "telegram:666/42@kim" || e.Reason == "" {
		t.Errorf("%+v", e)
	}
	now := time.Now()
	var s strangers
	for chat := range int64(2 * maxStrangers) {
		s.worthTelling(chat+1, now)
	}
	if len(s.noted) > maxStrangers+1 || s.worthTelling(5000, now) || !s.worthTelling(5000, now.Add(strangerPause)) {
		t.Errorf("%d are remembered", len(s.noted))
	}
}

// A message that holds a secret is deleted, is not carried out, and is said nowhere.
func TestSecretsAreHidden(t *testing.T) {
	t.Parallel()
	k := newTalk(t, botapi.New(token))
	for _, text := range []string{
		"/cred_add d canary-plain", "/cred_update a secret=canary123", "here: sk-proj-canary0123456789abcdef",
		"/cred_update a oauth={\"access_token\":\"canary-canary\"}", "Authorization: Bearer canarycanarycanary",
	} {
		k.api.Tell(ours, text, time.Now())
		if gone := k.answered(); gone.Method != "deleteMessage" || gone.Fields["message_id"] != "77" {
			t.Errorf("%s: %v", text, gone)
		}
		if said := k.answered(); !strings.Contains(said.Fields["text"], "was deleted") {
			t.Errorf("%s: %v", text, said)
		}
		if e := <-k.noted; e.Kind != pool.EventDenied || strings.Contains(fmt.Sprint(e), "canary") {
			t.Errorf("%+v", e)
		}
	}
	k.expect("/cred_add d", "on its host only")
	if all, err := k.keeper.Credentials(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%v, %v", all, err)
	}
	k.api.Refuse(func(method string) (int, int) {
		if method == "deleteMessage" {
			return http.StatusBadRequest, 0
		}
		return 0, 0
	})
	k.api.Tell(ours, "ghp_canarycanarycanary1234", time.Now())
	k.answered()
	if said := k.answered(); !strings.Contains(said.Fields["text"], "delete it yourself") {
		t.Errorf("%v", said)
	}
}

// People talk in chats, other bots are addressed, and messages come late.
func TestNotForUs(t *testing.T) {
	t.Parallel()
	k := newTalk(t, botapi.New(token))
	k.api.Tell(ours, "shall we rotate p?", time.Now())
	k.api.Tell(ours, "/rotate@otherbot p", time.Now())
	k.api.Tell(ours, "", time.Now())
	k.api.Tell(ours, "/rotate p", time.Now().Add(-time.Hour))
	if late := k.answered(); !strings.Contains(late.Fields["text"], "came late") {
		t.Errorf("%v", late)
	}
	if k.active() != "a" {
		t.Error("rotated")
	}
}

// The Bot API's pauses are kept, its outages outlived: nothing is lost, and nothing
// is done twice.
func TestOutages(t *testing.T) {
	t.Parallel()
	api := botapi.New(token)
	var mu sync.Mutex
	counts := make(map[string]int)
	api.Refuse(func(method string) (int, int) {
		mu.Lock()
		defer mu.Unlock()
		counts[method]++
		switch n := counts[method]; {
		case method == "getUpdates" && n == 1:
			return http.StatusBadGateway, 0
		case method == "getUpdates" && n == 2, method == "sendMessage" && n == 1:
			return http.StatusTooManyRequests, 2
		}
		return 0, 0
	})
	k := newTalk(t, api)
	k.api.Tell(ours, "/rotate p", time.Now())
	k.answered() // refused
	if done := k.answered(); !strings.HasPrefix(done.Fields["text"], "Rotated.") || k.active() != "b" {
		t.Errorf("%v, %s is active", done.Fields, k.active())
	}
	k.expect("/status p", "is active")
	var refused time.Time
	for _, x := range k.api.All() {
		switch {
		case x.Method != "sendMessage":
		case refused.IsZero():
			refused = x.At
		default:
			if waited := x.At.Sub(refused); waited < 1900*time.Millisecond {
				t.Errorf("sent again %s after a 429 that asked for 2 s", waited)
			}
			return
		}
	}
	t.Error("not sent again")
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// A Bot API that is not there ends nothing, and the log says so without the token.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	server.Close()
	var log lockedBuffer
	b, err := NewBot(BotOptions{
		Token: token, Chats: []int64{ours}, Server: server.URL, Operations: control.New(control.Options{}),
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(log.String(), "Bot API") {
		if time.Now().After(deadline) {
			t.Fatal("nothing is said of it")
		}
		runtime.Gosched()
	}
	cancel()
	if err := <-ended; err != nil || strings.Contains(log.String(), "canary") {
		t.Errorf("%v; the log is %s", err, log.String())
	}
	if _, err := NewBot(BotOptions{}); err == nil {
		t.Error("a bot without a token")
	}
}
