package pool_test

import (
	"errors"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
)

// A name that stands for nothing is asked after among those that could be meant: pools,
// credentials, or the members of the one pool.
func TestDidYouMean(t *testing.T) {
	t.Parallel()
	k, ctx := newBench(t, nil), t.Context()
	k.add(t, "alpha", "beta", "spare")
	if _, err := k.CreatePool(ctx, pool.Pool{Name: "main", Members: []string{"alpha", "beta"}, Provider: "openai"}); err != nil {
		t.Fatal(err)
	}
	_, status := k.PoolStatus(ctx, "mian")
	_, tokens := k.AgentTokens("mian")
	_, update := k.UpdateCredential(ctx, "alpah", pool.CredentialChange{})
	for what, tc := range map[string]struct {
		err  error
		want string
	}{
		"status":        {status, `there is no pool "mian"; did you mean "main"?`},
		"tokens":        {tokens, `there is no pool "mian"; did you mean "main"?`},
		"rotate":        {k.Rotate(ctx, "mian"), `there is no pool "mian"; did you mean "main"?`},
		"nothing near":  {k.Rotate(ctx, "nobody"), `there is no pool "nobody"`},
		"remove":        {k.RemovePool(ctx, "mian"), `there is no pool "mian"; did you mean "main"?`},
		"no member":     {k.Clear(ctx, "main", "alpah"), `pool "main" has no member "alpah"; did you mean "alpha"?`},
		"not of it":     {k.Clear(ctx, "main", "spaer"), `pool "main" has no member "spaer"`},
		"not out of it": {k.RemoveMember(ctx, "main", "alpah"), `pool "main" has no member "alpah"; did you mean "alpha"?`},
		"new member":    {k.AddMember(ctx, "main", "spaer"), `members: there is no credential "spaer": add it first with 'sluice cred add spaer'; did you mean "spare"?`},
		"new, no pool":  {k.AddMember(ctx, "mian", "spare"), `there is no pool "mian"; did you mean "main"?`},
		"update":        {update, `there is no credential "alpah"; did you mean "alpha"?`},
		"forget":        {k.RemoveCredential(ctx, "alpah"), `there is no credential "alpah"; did you mean "alpha"?`},
	} {
		var known *pool.Error
		if !errors.As(tc.err, &known) || known.Code != pool.CodeNotFound || known.Message != tc.want {
			t.Errorf("%s: %v, want %s", what, tc.err, tc.want)
		}
	}
}
