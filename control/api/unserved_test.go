package api

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/intercept"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// unserved removes the pool of the only target, and makes it again.
func (c *contract) unserved(s *served) {
	c.ask(s, 204, "DELETE", "/api/pools/p", "")
	if got := c.ask(s, 200, "GET", "/api/targets", ""); !strings.Contains(got, `"unserved":true`) {
		c.Errorf("its only pool is gone: %s", got)
	}
	c.ask(s, 201, "POST", "/api/pools", `{"name":"p","members":["a","b"],"provider":"openai"}`)
	if got := c.ask(s, 200, "GET", "/api/targets", ""); !strings.Contains(got, `"unserved":false`) {
		c.Errorf("the pool is there again: %s", got)
	}
}

// Who removes a pool is told which targets no pool serves from then on: those that it served, and no others.
func TestTargetsThatAreLeftWithNoPoolAreTold(t *testing.T) {
	t.Parallel()
	s := newServed(t, io.Discard)
	for id, pools := range map[string][]string{"of-a": {"a"}, "of-b": {"b"}, "of-both": {"a", "b"}, "of-all": {}} {
		s.cgroups.targets = append(s.cgroups.targets, intercept.Target{ID: id, Pools: pools, State: intercept.StateAttached})
	}
	for _, name := range []string{"a", "b"} {
		if _, err := s.keeper.AddCredential(t.Context(), pool.CredentialSpec{Name: "k" + name, Secret: vault.NewSecret([]byte("s"))}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.keeper.CreatePool(t.Context(), pool.Pool{Name: name, Members: []string{"k" + name}, Provider: "openai"}); err != nil {
			t.Fatal(err)
		}
	}
	client, err := Dial(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, step := range []struct {
		remove string
		left   []string // by the removal
		all    []string // by then
	}{
		{"a", []string{"of-a"}, []string{"of-a"}},
		{"b", []string{"of-all", "of-b", "of-both"}, []string{"of-a", "of-all", "of-b", "of-both"}},
	} {
		if err := client.RemovePool(t.Context(), step.remove); err != nil {
			t.Fatal(err)
		}
		left, err := client.LeftBy(t.Context(), step.remove)
		if err != nil {
			t.Fatal(err)
		}
		targets, err := client.Targets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := unservedOf(left); !slices.Equal(got, step.left) {
			t.Errorf("without %s: %v are left, want %v", step.remove, got, step.left)
		}
		if got := unservedOf(targets); !slices.Equal(got, step.all) {
			t.Errorf("without %s: no pool serves %v, want %v", step.remove, got, step.all)
		}
	}
}

func unservedOf(targets []Target) []string {
	var ids []string
	for _, t := range targets {
		if t.Unserved {
			ids = append(ids, t.Id)
		}
	}
	slices.Sort(ids)
	return ids
}
