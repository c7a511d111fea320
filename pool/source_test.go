package pool_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/source"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// shelf is a directory of secrets, and how often it was asked.
type shelf struct {
	pool.Sources
	t     *testing.T
	dir   string
	asked atomic.Int64
	hangs atomic.Bool
}

// newShelf is a keeper that may read from a shelf, and that reads again every so often.
func newShelf(t *testing.T, interval time.Duration) (*bench, *shelf) {
	t.Helper()
	s := &shelf{t: t, dir: t.TempDir()}
	files, err := source.New(source.Options{Files: []string{s.dir}})
	if err != nil {
		t.Fatal(err)
	}
	s.Sources = files
	return newBench(t, func(o *pool.Options) { o.Sources, o.FetchInterval = s, interval }), s
}

func (s *shelf) Fetch(ctx context.Context, from string, whole bool) (vault.Secret, error) {
	s.asked.Add(1)
	if s.hangs.Load() {
		<-ctx.Done()
		return vault.Secret{}, pool.Unavailable("source %s: %s", from, ctx.Err())
	}
	return s.Sources.Fetch(ctx, from, whole)
}

func (s *shelf) put(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		s.t.Fatal(err)
	}
	return "file:" + path
}

func (s *shelf) remove(name string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
		s.t.Fatal(err)
	}
}

// rekey replaces the identity while nothing else is at work.
func (b *bench) rekey(t testing.TB) {
	t.Helper()
	db, err := store.Open(t.Context(), b.dir)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := db.Sealed(t.Context())
	if err == nil {
		err = vault.Rekey(vault.Options{File: filepath.Join(b.dir, "identity"), Sealed: sealed}, func(seal func([]byte) ([]byte, error)) error {
			return db.Reseal(t.Context(), seal)
		})
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) addFrom(t testing.TB, name, from string) {
	t.Helper()
	if _, err := b.AddCredential(t.Context(), pool.CredentialSpec{Name: name, Source: from}); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) poolOf(t testing.TB, members ...string) pool.Route {
	t.Helper()
	if _, err := b.CreatePool(t.Context(), pool.Pool{Name: "p", Members: members, Provider: "openai"}); err != nil {
		t.Fatal(err)
	}
	r, _ := b.Route("api.openai.com", 443, nil)
	return r
}

func (b *bench) credential(t testing.TB, name string) pool.Credential {
	t.Helper()
	all, err := b.Credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no credential %s", name)
	return pool.Credential{}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to pass: " + what)
		}
	}
}

// A source that is away takes no member out, not at a start either, and is said once.
func TestASourceThatIsAwayTakesNoMemberOut(t *testing.T) {
	t.Parallel()
	b, s := newShelf(t, 30*time.Millisecond)
	b.addFrom(t, "a", s.put("a", "sk-1\n"))
	r := b.poolOf(t, "a")
	if got := token(b.acquire(t, r)); got != "sk-1" {
		t.Fatalf("requests carry %s", got)
	}
	s.remove("a")
	b.restart(t)
	if got := token(b.acquire(t, r)); got != "sk-1" {
		t.Errorf("with its source away requests carry %s", got)
	}
	eventually(t, "the error is shown", func() bool { return strings.Contains(b.credential(t, "a").SourceError, "no such file") })
	b.restart(t)
	asked := s.asked.Load()
	eventually(t, "it is asked again", func() bool { return s.asked.Load() > asked+3 })
	if n := b.count(t, pool.EventFetchFailed); n != 1 {
		t.Errorf("said %d times", n)
	}
	// Nor does a new identity for what is sealed need the source.
	b.stop()
	b.rekey(t)
	b.start(t)
	if got := token(b.acquire(t, r)); got != "sk-1" {
		t.Errorf("after a rekey requests carry %s", got)
	}
	// Back with the same: nothing is replaced, and it is said that all is well.
	s.put("a", "sk-1")
	eventually(t, "the error goes", func() bool { return b.credential(t, "a").SourceError == "" })
	s.put("a", "sk-2")
	eventually(t, "the other secret is taken", func() bool { return token(b.acquire(t, r)) == "sk-2" })
	for _, bad := range []string{"", "sk\nsplit", "<html>no</html>", strings.Repeat("k", 65<<10)} {
		s.put("a", bad)
		eventually(t, "what is no secret is refused", func() bool { return b.credential(t, "a").SourceError != "" })
		if got := token(b.acquire(t, r)); got != "sk-2" {
			t.Errorf("requests carry %q", got)
		}
		s.put("a", "sk-2")
		eventually(t, "the error goes", func() bool { return b.credential(t, "a").SourceError == "" })
	}
	b.restart(t)
	if got := token(b.acquire(t, r)); got != "sk-2" {
		t.Errorf("after a restart requests carry %s", got)
	}
}

// One failure is what a source that restarts looks like: it is no news.
func TestASourceThatRestartsIsNoNews(t *testing.T) {
	t.Parallel()
	b, s := newShelf(t, time.Hour)
	b.addFrom(t, "a", s.put("a", "sk-1"))
	s.remove("a")
	b.restart(t) // which reads once
	eventually(t, "it is read", func() bool { return s.asked.Load() == 2 })
	b.stop() // which waits for that to be noted
	b.start(t)
	if b.credential(t, "a").SourceError != "" || b.count(t, pool.EventFetchFailed) != 0 {
		t.Error("said after one failure")
	}
}

// A key that was replaced where it is kept is taken as soon as the old one is refused, and
// the member does not sit out the rest of its five minutes.
func TestARefusedSecretIsReadAgain(t *testing.T) {
	t.Parallel()
	b, s := newShelf(t, time.Hour)
	b.addFrom(t, "a", s.put("a", "sk-old"))
	b.add(t, "b")
	r := b.poolOf(t, "a", "b")
	eventually(t, "the start's reading is over", func() bool { return s.asked.Load() >= 1 })
	l := b.acquire(t, r)
	s.put("a", "sk-new")
	b.pass(time.Minute)
	b.answer(t, l, 401, "")
	if got := token(b.acquire(t, r)); got != "sk-b" {
		t.Errorf("the next request carries %s", got)
	}
	eventually(t, "the member is back", func() bool { return b.status(t).Members[0].State != pool.MemberCooldown })
	if got := token(b.acquire(t, r, "b")); got != "sk-new" {
		t.Errorf("it carries %s", got)
	}
	// What was read by then is not asked for again at each refusal.
	asked := s.asked.Load()
	l = b.acquire(t, r, "b")
	for range 50 {
		b.answer(t, l, 401, "")
	}
	if n := s.asked.Load() - asked; n > 1 {
		t.Errorf("read %d times for 50 refusals", n)
	}
}

func accountText(access, refresh string, ends time.Time) string {
	return fmt.Sprintf(`{"access_token":%q,"refresh_token":%q,"expires_at":%q}`, access, refresh, ends.UTC().Format(time.RFC3339))
}

// An account's tokens are newer here than in its source once they were refreshed: only
// others than were read last are taken from there.
func TestAnAccountIsNotTakenBackToSpentTokens(t *testing.T) {
	t.Parallel()
	b, s := newShelf(t, 20*time.Millisecond)
	server := newTokenServer(t)
	b.stop()
	b.opts.HTTP = server.Client()
	b.start(t)
	b.mu.Lock()
	b.now = time.Now()
	b.mu.Unlock()
	from := s.put("a", accountText("at-0", "rt-0", b.clock().Add(time.Hour)))
	if _, err := b.AddCredential(t.Context(), pool.CredentialSpec{Name: "a", Type: pool.OAuth, Source: from, TokenURL: server.URL + "/oauth/token"}); err != nil {
		t.Fatal(err)
	}
	r := b.poolOf(t, "a")
	if next, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); !ok || token(next) != "at-1" {
		t.Fatal("not refreshed")
	}
	again := func() {
		t.Helper()
		asked := s.asked.Load()
		eventually(t, "it is read again", func() bool { return s.asked.Load() > asked+2 })
	}
	again()
	if _, err := b.UpdateCredential(t.Context(), "a", pool.CredentialChange{Source: &from}); err != nil {
		t.Fatal(err)
	}
	b.restart(t)
	again()
	if got := token(b.acquire(t, r)); got != "at-1" {
		t.Errorf("requests carry %s", got)
	}
	if next, ok := b.Refresh(t.Context(), r, b.acquire(t, r)); !ok || token(next) != "at-2" {
		t.Error("the refresh token is a spent one")
	}
	// A login of somebody's is another.
	server.set(func(s *tokenServer) { s.good = "rt-signed-in" })
	s.put("a", accountText("at-signed-in", "rt-signed-in", b.clock().Add(time.Hour)))
	eventually(t, "the new login is taken", func() bool { return token(b.acquire(t, r)) == "at-signed-in" })
	for name, text := range map[string]string{"no JSON": "canary", "no field": `{"access_token":"canary"}`, "empty": accountText("canary", "", b.clock())} {
		_, err := b.AddCredential(t.Context(), pool.CredentialSpec{Name: "x", Type: pool.OAuth, Source: s.put("x", text)})
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatASourceIsChangedTo(t *testing.T) {
	t.Parallel()
	b, s := newShelf(t, time.Hour)
	one, two, none := s.put("one", "sk-1"), s.put("two", "sk-2"), ""
	b.addFrom(t, "a", one)
	r := b.poolOf(t, "a")
	secret := func(text string) *vault.Secret { s := vault.NewSecret([]byte(text)); return &s }
	for _, c := range []struct {
		what         string
		change       pool.CredentialChange
		source, want string
		fails        string
	}{
		{"the same again", pool.CredentialChange{Source: &one}, one, "sk-1", ""},
		{"another", pool.CredentialChange{Source: &two}, two, "sk-2", ""},
		{"none, and its secret stays", pool.CredentialChange{Source: &none}, "", "sk-2", ""},
		{"back", pool.CredentialChange{Source: &one}, one, "sk-1", ""},
		{"a secret is given", pool.CredentialChange{Secret: secret("sk-3")}, "", "sk-3", ""},
		{"back to what it held before", pool.CredentialChange{Source: &one}, one, "sk-1", ""},
		{"none and a secret", pool.CredentialChange{Source: &none, Secret: secret("sk-4")}, "", "sk-4", ""},
		{"both", pool.CredentialChange{Source: &one, Secret: secret("sk-5")}, "", "sk-4", "not both"},
		{"nowhere", pool.CredentialChange{Source: ptr("file:" + s.dir + "/nowhere")}, "", "sk-4", "no such file"},
		{"not allowed", pool.CredentialChange{Source: ptr("file:/etc/shadow")}, "", "sk-4", "secrets.files"},
		{"nonsense", pool.CredentialChange{Source: ptr("sk-canary")}, "", "sk-4", "source: "},
		{"too long", pool.CredentialChange{Source: ptr("file:/" + strings.Repeat("a", 2000))}, "", "sk-4", "source: "},
		{"an account from nowhere", pool.CredentialChange{OAuth: &pool.OAuthTokens{}}, "", "sk-4", "oauth: "},
	} {
		_, err := b.UpdateCredential(t.Context(), "a", c.change)
		if (err != nil) != (c.fails != "") || err != nil && (!strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := token(b.acquire(t, r)); got != c.want || b.credential(t, "a").Source != c.source {
			t.Errorf("%s: requests carry %s, from %q", c.what, got, b.credential(t, "a").Source)
		}
	}
	for what, spec := range map[string]pool.CredentialSpec{
		"a secret, too": {Name: "x", Source: one, Secret: *secret("sk")}, "of a static one": {Name: "x", Source: one, TokenURL: "https://h/t"},
		"of no type": {Name: "x", Source: one, Type: "x"}, "no name": {Name: "", Source: one}, "a taken name": {Name: "a", Source: one},
	} {
		if _, err := b.AddCredential(t.Context(), spec); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if _, err := b.UpdateCredential(t.Context(), "nobody", pool.CredentialChange{Source: &one}); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("%v", err)
	}
	if all, err := b.Credentials(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%d credentials, %v", len(all), err)
	}
}

func ptr(s string) *string { return &s }

// Whatever a source does, nothing waits for it but who has asked for it.
func TestASourceThatHangsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	b, s := newShelf(t, time.Hour)
	names := make([]string, 12)
	for i := range names {
		names[i] = fmt.Sprintf("a%d", i)
		b.addFrom(t, names[i], s.put(names[i], "sk-"+names[i]))
	}
	r := b.poolOf(t, names...)
	s.hangs.Store(true)
	began := time.Now()
	b.restart(t)
	eventually(t, "some are asked for", func() bool { return s.asked.Load() >= 12+4 })
	for _, name := range names {
		if l := b.acquire(t, r); token(l) != "sk-"+name {
			t.Errorf("%s carries %s", l.Member, token(l))
		} else {
			b.answer(t, l, 429, "600")
		}
	}
	b.add(t, "x")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.AddCredential(ctx, pool.CredentialSpec{Name: "y", Source: "file:" + s.dir + "/a0"}); err == nil {
		t.Error("stored before it was read")
	}
	b.restart(t) // which breaks off what hangs
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("took %s", took)
	}
}

// Everything at once, for the race detector; afterwards it is what the source says.
func TestSourcesUnderLoad(t *testing.T) {
	t.Parallel()
	b, s := newShelf(t, time.Millisecond)
	from := s.put("a", "sk-0")
	b.addFrom(t, "a", from)
	b.addFrom(t, "b", s.put("b", "sk-b"))
	r := b.poolOf(t, "a", "b")
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	var all sync.WaitGroup
	work := func(step func(i int)) {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				step(i)
			}
		})
	}
	work(func(i int) { s.put("a", fmt.Sprintf("sk-%d", i)); time.Sleep(time.Millisecond) })
	work(func(int) { _, _ = b.UpdateCredential(ctx, "a", pool.CredentialChange{Source: &from}) })
	work(func(int) {
		if l, err := b.Acquire(ctx, r, nil); err == nil {
			if !strings.HasPrefix(token(l), "sk-") {
				t.Errorf("a request carries %q", token(l))
			}
			_, _ = b.Observe(ctx, l, pool.Answer{Status: 401, At: b.clock()})
		}
		_ = b.Clear(ctx, "p", "")
	})
	work(func(i int) {
		name := fmt.Sprintf("c%d", i)
		_, _ = b.AddCredential(ctx, pool.CredentialSpec{Name: name, Source: from})
		_ = b.RemoveCredential(ctx, name)
	})
	all.Wait()
	_ = b.Clear(t.Context(), "p", "")
	s.put("a", "sk-last")
	eventually(t, "the last secret is taken", func() bool { return token(b.acquire(t, r, "b")) == "sk-last" })
}

// A source is hurried to after a refusal whatever the clock was set to since it was read.
func TestASourceIsReadWhateverTheClockIsSetTo(t *testing.T) {
	t.Parallel()
	b, s := newShelf(t, time.Hour)
	b.addFrom(t, "a", s.put("a", "sk-1"))
	r := b.poolOf(t, "a")
	s.put("a", "sk-2")
	b.pass(time.Minute - 12*time.Hour)
	if err := b.ClockSet(t.Context(), -12*time.Hour, []byte("anchor")); err != nil {
		t.Fatal(err)
	}
	b.answer(t, b.acquire(t, r), 401, "")
	eventually(t, "the source is read again", func() bool { return b.status(t).State == pool.StateHealthy && token(b.acquire(t, r)) == "sk-2" })
}

// While its secret is refused a source is read every minute: who puts a good one there need not do more.
func TestASourceOfARefusedSecretIsReadOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{t: t, dir: t.TempDir()}
		var err error
		if s.Sources, err = source.New(source.Options{Files: []string{s.dir}}); err != nil {
			t.Fatal(err)
		}
		b := newBench(t, func(o *pool.Options) { o.Sources, o.FetchInterval, o.Now = s, time.Hour, nil })
		b.addFrom(t, "a", s.put("a", "sk-1"))
		r := b.poolOf(t, "a")
		time.Sleep(time.Minute)
		before := s.asked.Load()
		b.answer(t, b.acquire(t, r), 401, "")
		time.Sleep(4*time.Minute + 30*time.Second)
		if n := s.asked.Load() - before; n != 5 {
			t.Errorf("read %d times, want 5", n)
		}
	})
}
