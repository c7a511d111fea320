package pool_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// Each change that somebody asks for adds one event that names them; what is
// refused, or what sluice does by itself, adds none.
func TestChangesNameTheActor(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for _, name := range []string{"a", "b", "c"} {
		b.add(t, name)
	}
	ctx := pool.WithActor(t.Context(), "unix:7/kim")
	secret := vault.NewSecret([]byte("canary"))
	want := ""
	step := func(line string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		want += line + "\n"
	}
	_, err := b.AddCredential(ctx, pool.CredentialSpec{Name: "d", Secret: secret})
	step("cred_added  d  type static", err)
	_, err = b.UpdateCredential(ctx, "d", pool.CredentialChange{Secret: &secret, ExtraHeaders: &[]pool.ExtraHeader{}})
	step("cred_updated  d  extra_headers, secret", err)
	_, err = b.CreatePool(ctx, pool.Pool{Name: "p", Members: []string{"a", "b"}, Provider: "openai"})
	step("pool_created p   members a, b", err)
	step("member_added p c  ", b.AddMember(ctx, "p", "c"))
	step("pool_rotated p a b ", b.Rotate(ctx, "p"))
	step("pool_cleared p   ", b.Clear(ctx, "p", ""))
	step("pool_cleared p b  ", b.Clear(ctx, "p", "b"))
	step("member_removed p c  ", b.RemoveMember(ctx, "p", "c"))
	step("auth_reset_target_set p   ", b.SetAuthResetTarget(ctx, "p", "openai"))
	_, err = b.RequestReset(ctx, "p", 0, false)
	step("auth_reset_requested p   ", err)
	if again, err := b.RequestReset(ctx, "p", 0, false); again || err != nil {
		t.Fatal(again, err)
	}
	for _, err := range []error{
		b.AddMember(ctx, "p", "nobody"), b.Rotate(ctx, "q"), b.Clear(ctx, "p", "nobody"), b.RemovePool(ctx, "q"),
		b.RemoveCredential(ctx, "a"), b.RemoveMember(ctx, "p", "c"), b.SetAuthResetTarget(ctx, "q", ""),
	} {
		var known *pool.Error
		if !errors.As(err, &known) {
			t.Fatalf("not refused: %v", err)
		}
	}
	if err := b.Clear(t.Context(), "p", ""); err != nil { // nobody asked
		t.Fatal(err)
	}
	step("pool_removed p   ", b.RemovePool(ctx, "p"))
	step("cred_removed  a  ", b.RemoveCredential(ctx, "a"))

	events, err := b.LastEvents(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, e := range events {
		fmt.Fprintf(&got, "%s %s %s %s %s\n", e.Kind, e.Pool, e.Member, e.To, e.Detail)
		if e.Actor != "unix:7/kim" || e.Time.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestActorIsBounded(t *testing.T) {
	t.Parallel()
	if got := pool.ActorOf(pool.WithActor(t.Context(), strings.Repeat("x", 1000))); len(got) != pool.MaxActor {
		t.Errorf("%d bytes", len(got))
	}
	if got := pool.ActorOf(t.Context()); got != "" {
		t.Errorf("nobody is called %q", got)
	}
}
