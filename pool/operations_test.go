package pool_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

func TestBadInputNamesTheField(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.pool(t, "a", "b")
	b.add(t, "free")
	header := "Authorization: Bearer {token}"
	one := func(host, header string) pool.Pool {
		return pool.Pool{Name: "n", Members: []string{"free"}, Bindings: []pool.Binding{{Host: host, Header: header}}}
	}
	for name, c := range map[string]struct {
		p    pool.Pool
		code pool.Code
		word string
	}{
		"no name":            {pool.Pool{Members: []string{"free"}, Provider: "openai"}, pool.CodeInvalid, "name"},
		"dash":               {pool.Pool{Name: "-x", Members: []string{"free"}, Provider: "openai"}, pool.CodeInvalid, "name"},
		"dot":                {pool.Pool{Name: ".", Members: []string{"free"}, Provider: "openai"}, pool.CodeInvalid, "name"},
		"two dots":           {pool.Pool{Name: "..", Members: []string{"free"}, Provider: "openai"}, pool.CodeInvalid, "name"},
		"long name":          {pool.Pool{Name: strings.Repeat("x", 65), Members: []string{"free"}, Provider: "openai"}, pool.CodeInvalid, "name"},
		"no member":          {pool.Pool{Name: "n", Provider: "openai"}, pool.CodeInvalid, "members"},
		"unknown member":     {pool.Pool{Name: "n", Members: []string{"nobody"}, Provider: "openai"}, pool.CodeNotFound, "nobody"},
		"pooled member":      {pool.Pool{Name: "n", Members: []string{"a"}, Provider: "openai"}, pool.CodeConflict, `pool "p"`},
		"duplicate member":   {pool.Pool{Name: "n", Members: []string{"free", "free"}, Provider: "openai"}, pool.CodeInvalid, "twice"},
		"duplicate pool":     {pool.Pool{Name: "p", Members: []string{"free"}, Provider: "openai"}, pool.CodeConflict, "pool named"},
		"named like a cred":  {pool.Pool{Name: "free", Members: []string{"free"}, Provider: "openai"}, pool.CodeConflict, "credential named"},
		"unknown provider":   {pool.Pool{Name: "n", Members: []string{"free"}, Provider: "openia"}, pool.CodeInvalid, "provider"},
		"nothing bound":      {pool.Pool{Name: "n", Members: []string{"free"}}, pool.CodeInvalid, "bindings"},
		"host: address":      {one("192.0.2.1", header), pool.CodeInvalid, "IP address"},
		"host: address 6":    {one("[2001:db8::1]", header), pool.CodeInvalid, "IP address"},
		"host: wildcard":     {one("*.openai.com", header), pool.CodeInvalid, "wildcards"},
		"host: URL":          {one("https://api.openai.com", header), pool.CodeInvalid, "URL"},
		"host: empty":        {one("", header), pool.CodeInvalid, "host"},
		"host: path":         {one("a.example/b", header), pool.CodeInvalid, "host"},
		"host: empty label":  {one("a..example", header), pool.CodeInvalid, "host"},
		"host: long":         {one(strings.Repeat("a.", 200)+"example", header), pool.CodeInvalid, "host"},
		"header: none":       {one("a.example", ""), pool.CodeInvalid, "header"},
		"header: no colon":   {one("a.example", "Authorization {token}"), pool.CodeInvalid, "header"},
		"header: no token":   {one("a.example", "Authorization: Bearer"), pool.CodeInvalid, "{token}"},
		"header: two tokens": {one("a.example", "Authorization: {token}{token}"), pool.CodeInvalid, "more than once"},
		"header: line break": {one("a.example", "A: {token}\r\nB: c"), pool.CodeInvalid, "line break"},
		"header: framing":    {one("a.example", "Content-Length: {token}"), pool.CodeInvalid, "frames"},
		"header: bad name":   {one("a.example", "a b: {token}"), pool.CodeInvalid, "name of a header field"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.CreatePool(t.Context(), c.p)
			var e *pool.Error
			if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.word) {
				t.Fatalf("got %v, want code %d with %q", err, c.code, c.word)
			}
		})
	}
	if all, err := b.Pools(t.Context()); err != nil || len(all) != 1 {
		t.Fatalf("%d pools are left, %v", len(all), err)
	}
}

// The pointer goes on from a member that is removed to the one behind it, around the end.
func TestRemovingTheActiveMemberGoesOn(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	r := b.pool(t, "a", "b", "c")
	b.answer(t, b.acquire(t, r), 429, "10")
	b.pass(time.Minute) // all can serve, and b is active
	for _, step := range []struct{ remove, active string }{{"b", "c"}, {"c", "a"}} {
		if err := b.RemoveMember(t.Context(), "p", step.remove); err != nil {
			t.Fatal(err)
		}
		if s := b.status(t); s.Active != step.active {
			t.Errorf("without %s, %s is active, want %s", step.remove, s.Active, step.active)
		}
	}
}

// Of the pools that a target names, the oldest serves a host that several are bound to.
func TestTheOldestOfThePoolsThatAreNamed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.add(t, "a", "b", "c")
	for _, p := range []pool.Pool{
		{Name: "first", Members: []string{"a"}, Provider: "openai"},
		{Name: "second", Members: []string{"b"}, Provider: "openai"},
		{Name: "elsewhere", Members: []string{"c"}, Provider: "gemini"},
	} {
		if _, err := b.CreatePool(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		named []string
		want  string
	}{
		{nil, "first"}, {[]string{"second", "first"}, "first"}, {[]string{"first", "second"}, "first"}, {[]string{"elsewhere", "second"}, "second"}, {[]string{"elsewhere", "gone"}, ""},
	} {
		if r, ok := b.Route("api.openai.com", 443, c.named); r.Pool != c.want || ok != (c.want != "") {
			t.Errorf("of %v: %q, want %q", c.named, r.Pool, c.want)
		}
	}
}

// TestSecretsThatAreNotSentAsTheyAre refuses what a field of a header would not have, or not as it was given: the
// upstream would not know it, and the guard against echoes would look for something else than was sent.
func TestSecretsThatAreNotSentAsTheyAre(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.add(t, "known")
	for secret, says := range map[string]string{
		"\ufeffsk-1": "byte order mark", "sk-\u00a0": "not ASCII", "sk-\xff": "not ASCII", "sk-\n1": "line break",
		" sk-1": "white space", "sk-1 ": "white space", "sk-1\t": "white space", "  ": "white space",
	} {
		given := vault.NewSecret([]byte(secret))
		_, err := b.AddCredential(t.Context(), pool.CredentialSpec{Name: "a", Secret: given})
		_, changed := b.UpdateCredential(t.Context(), "known", pool.CredentialChange{Secret: &given})
		for _, err := range []error{err, changed} {
			if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "secret: ") {
				t.Errorf("%q: %v", secret, err)
			}
		}
	}
}
