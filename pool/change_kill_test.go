package pool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// What the process that is killed is told by: its state directory, what it is to do, and after how many commits it dies.
const (
	changeDir   = "SLUICE_TEST_CHANGE_DIR"
	changeName  = "SLUICE_TEST_CHANGE_NAME"
	changeAfter = "SLUICE_TEST_CHANGE_AFTER"
)

// changeTime is when all of it happens.
var changeTime = time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC)

// changes are what a person can ask of a keeper: of pool p with a, which is out, and b; of q, whose only member c is not
// accepted; and of d, which no pool holds.
var changes = map[string]func(context.Context, *pool.Keeper) error{
	"pool create": func(ctx context.Context, k *pool.Keeper) error {
		_, err := k.CreatePool(ctx, pool.Pool{Name: "r", Members: []string{"d"}, Provider: "gemini"})
		return err
	},
	"pool remove":         func(ctx context.Context, k *pool.Keeper) error { return k.RemovePool(ctx, "p") },
	"pool add-member":     func(ctx context.Context, k *pool.Keeper) error { return k.AddMember(ctx, "p", "d") },
	"pool remove-member":  func(ctx context.Context, k *pool.Keeper) error { return k.RemoveMember(ctx, "p", "b") },
	"pool rotate":         func(ctx context.Context, k *pool.Keeper) error { return k.Rotate(ctx, "s") },
	"pool clear":          func(ctx context.Context, k *pool.Keeper) error { return k.Clear(ctx, "q", "") },
	"pool set-auth-reset": func(ctx context.Context, k *pool.Keeper) error { return k.SetAuthResetTarget(ctx, "p", "openai") },
	"cred add": func(ctx context.Context, k *pool.Keeper) error {
		_, err := k.AddCredential(ctx, pool.CredentialSpec{Name: "g", Secret: vault.NewSecret([]byte("sk-g"))})
		return err
	},
	"cred update": func(ctx context.Context, k *pool.Keeper) error {
		secret := vault.NewSecret([]byte("sk-other"))
		_, err := k.UpdateCredential(ctx, "c", pool.CredentialChange{Secret: &secret})
		return err
	},
	"cred remove": func(ctx context.Context, k *pool.Keeper) error { return k.RemoveCredential(ctx, "d") },
}

// dying is a store whose process is killed after so many commits.
type dying struct {
	pool.Store
	left int
}

func (d *dying) committed(err error) error {
	if d.left--; err == nil && d.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return err
}

func (d *dying) CreatePool(ctx context.Context, p pool.Pool, at time.Time, ready func() error) error {
	return d.committed(d.Store.CreatePool(ctx, p, at, ready))
}

func (d *dying) RemovePool(ctx context.Context, name string) error {
	return d.committed(d.Store.RemovePool(ctx, name))
}

func (d *dying) AddMember(ctx context.Context, name, credential string, ready func() error) error {
	return d.committed(d.Store.AddMember(ctx, name, credential, ready))
}

func (d *dying) RemoveMember(ctx context.Context, name, credential string, then pool.Change) error {
	return d.committed(d.Store.RemoveMember(ctx, name, credential, then))
}

func (d *dying) SetAuthResetTarget(ctx context.Context, name, target string) error {
	return d.committed(d.Store.SetAuthResetTarget(ctx, name, target))
}

func (d *dying) AddCredential(ctx context.Context, r pool.CredentialRecord) error {
	return d.committed(d.Store.AddCredential(ctx, r))
}

func (d *dying) UpdateCredential(ctx context.Context, r pool.CredentialRecord, then pool.Change, ready func() error) error {
	return d.committed(d.Store.UpdateCredential(ctx, r, then, ready))
}

func (d *dying) RemoveCredential(ctx context.Context, name string) error {
	return d.committed(d.Store.RemoveCredential(ctx, name))
}

func (d *dying) Apply(ctx context.Context, c pool.Change) error {
	return d.committed(d.Store.Apply(ctx, c))
}

// changeInChild makes a change, unless it is killed meanwhile.
func changeInChild(dir, name, after string) error {
	commits, err := strconv.Atoi(after)
	if err != nil {
		return err
	}
	db, err := store.Open(context.Background(), dir)
	if err != nil {
		return err
	}
	v, err := vault.Open(vault.Options{File: filepath.Join(dir, "identity")})
	if err != nil {
		return err
	}
	k, err := pool.NewKeeper(context.Background(), pool.Options{
		Store: &dying{db, commits}, Vault: v, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now: func() time.Time { return changeTime }, ProbeInterval: -1,
	})
	if err != nil {
		return err
	}
	err = changes[name](pool.WithActor(context.Background(), "unix:0/root"), k)
	k.Close()
	return errors.Join(err, db.Close())
}

// TestNoChangeIsHalfMadeByAKill kills a process after each commit of each change. What a restart finds is what was before
// the change, or all of it: with its event, and with the edge that follows from it.
func TestNoChangeIsHalfMadeByAKill(t *testing.T) {
	t.Parallel()
	for name := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(o *pool.Options) { o.Now = func() time.Time { return changeTime } })
			b.changeable(t)
			before := b.dump(t)
			b.stop()
			whole := t.TempDir()
			copyFiles(t, b.dir, whole)
			if killed := b.changeIn(t, whole, name, 0); killed {
				t.Fatal("killed without a reason")
			}
			after := b.at(t, whole)
			if after == before {
				t.Fatalf("nothing has changed: %s", before)
			}
			for commits, killed := 1, true; killed; commits++ {
				dir := t.TempDir()
				copyFiles(t, b.dir, dir)
				if killed = b.changeIn(t, dir, name, commits); !killed && commits == 1 {
					t.Fatal("it commits nothing")
				}
				if got := b.at(t, dir); got != before && got != after {
					t.Errorf("killed after commit %d:\n%s\nbefore:\n%s\nafter:\n%s", commits, got, before, after)
				}
			}
		})
	}
}

// changeable is what the changes are made of.
func (b *bench) changeable(t *testing.T) {
	t.Helper()
	b.add(t, "a", "b", "c", "d", "e", "f")
	for pools, members := range map[string][]string{"p": {"a", "b"}, "q": {"c"}, "s": {"e", "f"}} {
		host := pool.Binding{Host: pools + ".example", Port: 443, Header: "Authorization: Bearer {token}"}
		if _, err := b.CreatePool(t.Context(), pool.Pool{Name: pools, Members: members, Bindings: []pool.Binding{host}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, status := range map[string]int{"p": 429, "q": 401} {
		r, _ := b.Route(name+".example", 443, nil)
		b.answer(t, b.acquire(t, r), status, "3600")
	}
}

// at is dump of a state directory after a start.
func (b *bench) at(t *testing.T, dir string) string {
	t.Helper()
	was := b.dir
	b.dir = dir
	b.start(t)
	text := b.dump(t)
	b.stop()
	b.dir, b.Keeper = was, nil
	return text
}

// dump is all that a person can see of pools, credentials and events.
func (b *bench) dump(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	pools, err := b.Pools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pools {
		status, err := b.PoolStatus(t.Context(), p.Name)
		if err != nil {
			t.Fatal(err)
		}
		status.Agent = nil
		fmt.Fprintf(&text, "%+v\n", status)
	}
	credentials, err := b.Credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	events, err := b.LastEvents(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range credentials {
		fmt.Fprintf(&text, "%+v\n", c)
	}
	for _, e := range events {
		e.Seq = 0
		fmt.Fprintf(&text, "%+v\n", e)
	}
	return text.String()
}

// changeIn has a process make a change, and says whether it was killed.
func (b *bench) changeIn(t *testing.T, dir, name string, commits int) bool {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), changeDir+"="+dir, changeName+"="+name, changeAfter+"="+strconv.Itoa(commits), "GORACE=atexit_sleep_ms=0")
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return false
}

// copyFiles copies a directory that has no other in it.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
