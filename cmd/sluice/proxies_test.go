package main

import (
	"slices"
	"testing"

	"github.com/sluice-proxy/sluice/control/api"
)

func TestAroundProxies(t *testing.T) {
	t.Parallel()
	hosts := []string{"a.example", "b.example"}
	for name, c := range map[string]struct{ before, after []string }{
		"no proxy":           {[]string{"NO_PROXY=x", "HTTPS_PROXY="}, []string{"NO_PROXY=x", "HTTPS_PROXY="}},
		"a proxy":            {[]string{"https_proxy=p"}, []string{"https_proxy=p", "NO_PROXY=a.example,b.example", "no_proxy=a.example,b.example"}},
		"for everything":     {[]string{"ALL_PROXY=p"}, []string{"ALL_PROXY=p", "NO_PROXY=a.example,b.example", "no_proxy=a.example,b.example"}},
		"with exceptions":    {[]string{"HTTP_PROXY=p", "no_proxy=x, b.example"}, []string{"HTTP_PROXY=p", "NO_PROXY=x,b.example,a.example", "no_proxy=x,b.example,a.example"}},
		"two sets of them":   {[]string{"NO_PROXY=x", "http_proxy=p", "no_proxy=y"}, []string{"http_proxy=p", "NO_PROXY=x,a.example,b.example", "no_proxy=y,a.example,b.example"}},
		"nothing goes there": {[]string{"HTTPS_PROXY=p", "NO_PROXY=*", "no_proxy=*"}, []string{"HTTPS_PROXY=p", "NO_PROXY=*", "no_proxy=*"}},
	} {
		before := slices.Clone(c.before)
		got := slices.Sorted(slices.Values(aroundProxies(c.before, hosts)))
		slices.Sort(c.after)
		if !slices.Equal(got, c.after) {
			t.Errorf("%s: %q, want %q", name, got, c.after)
		}
		if !slices.Equal(c.before, before) {
			t.Errorf("%s: the environment at hand was changed: %q", name, c.before)
		}
	}
}

func TestTakenHosts(t *testing.T) {
	t.Parallel()
	pools := []api.Pool{
		{Name: "plan", Provider: "codex", Bindings: []api.Binding{{Host: "chatgpt.com", Port: 443}}},
		{Name: "mine", Bindings: []api.Binding{{Host: "b.example", Port: 443}, {Host: "b.example", Port: 8443}}},
	}
	if got := takenHosts(pools, nil); !slices.Equal(got, []string{"auth.openai.com", "b.example", "chatgpt.com"}) {
		t.Errorf("%q", got)
	}
	if got := takenHosts(pools, []string{"mine"}); !slices.Equal(got, []string{"b.example"}) {
		t.Errorf("one pool: %q", got)
	}
}
