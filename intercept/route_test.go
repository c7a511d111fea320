package intercept

import (
	"testing"

	"github.com/sluice-proxy/sluice/intercept/sniff"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	r := &routes{hosts: []string{"bound.test"}, ports: []uint16{443, 8443}, changed: make(chan struct{})}
	for name, c := range map[string]struct {
		hello sniff.Hello
		port  uint16
		pools []string
		want  verdict
	}{
		"bound":                      {sniff.Hello{Kind: sniff.KindTLS, ServerName: "bound.test"}, 443, nil, verdictTerminate},
		"mixed case, trailing dot":   {sniff.Hello{Kind: sniff.KindTLS, ServerName: "Bound.Test."}, 443, nil, verdictTerminate},
		"an outer name of ECH":       {sniff.Hello{Kind: sniff.KindTLS, ServerName: "bound.test", ECH: true}, 443, nil, verdictTerminate},
		"another host":               {sniff.Hello{Kind: sniff.KindTLS, ServerName: "other.test"}, 443, nil, verdictSplice},
		"a longer name":              {sniff.Hello{Kind: sniff.KindTLS, ServerName: "x.bound.test"}, 443, nil, verdictSplice},
		"no name":                    {sniff.Hello{Kind: sniff.KindTLS}, 443, nil, verdictSplice},
		"a name that is none":        {sniff.Hello{Kind: sniff.KindTLS, ServerName: "a b\x00"}, 443, nil, verdictSplice},
		"an unbound port":            {sniff.Hello{Kind: sniff.KindTLS, ServerName: "bound.test"}, 8080, nil, verdictSplice},
		"a pool of the target's":     {sniff.Hello{Kind: sniff.KindTLS, ServerName: "bound.test"}, 443, []string{"p"}, verdictTerminate},
		"a pool not the target's":    {sniff.Hello{Kind: sniff.KindTLS, ServerName: "bound.test"}, 443, []string{"q"}, verdictSplice},
		"plain, bound":               {sniff.Hello{Kind: sniff.KindHTTP, Host: "bound.test"}, 443, nil, verdictRefuse},
		"plain, bound, with a port":  {sniff.Hello{Kind: sniff.KindHTTP, Host: "bound.test:80"}, 443, nil, verdictRefuse},
		"plain, another host":        {sniff.Hello{Kind: sniff.KindHTTP, Host: "other.test"}, 443, nil, verdictSplice},
		"plain, no host":             {sniff.Hello{Kind: sniff.KindHTTP}, 443, nil, verdictSplice},
		"plain, a name of TLS's":     {sniff.Hello{Kind: sniff.KindHTTP, ServerName: "bound.test"}, 443, nil, verdictSplice},
		"HTTP/2 in the clear":        {sniff.Hello{Kind: sniff.KindH2C, Host: "bound.test"}, 443, nil, verdictSplice},
		"neither, whatever it names": {sniff.Hello{Kind: sniff.KindUnknown, ServerName: "bound.test", Host: "bound.test"}, 443, nil, verdictSplice},
	} {
		got, route := decide(r, c.hello, c.port, c.pools)
		if got != c.want {
			t.Errorf("%s: verdict %d, want %d", name, got, c.want)
		}
		if (got == verdictSplice) != (route.Pool == "") {
			t.Errorf("%s: route %+v", name, route)
		}
	}
}

func TestDescriptorsAreSharedOut(t *testing.T) {
	t.Parallel()
	for files, want := range map[uint64]Descriptors{
		0: {16, 8, 16}, 256: {16, 8, 16}, 1024: {336, 16, 64}, 20000: {9048, 312, 1024},
		524288: {260480, 1024, 1024}, ^uint64(0): {1 << 20, 1024, 1024},
	} {
		got := shareOut(files)
		if got != want {
			t.Errorf("%d files: %+v, want %+v", files, got, want)
		}
		if all := spareDescriptors + 2*got.Conns + 2*got.Pipes + got.Idle; files >= 1024 && uint64(all) > files {
			t.Errorf("%d files: %+v takes %d", files, got, all)
		}
	}
}

func TestTargetID(t *testing.T) {
	t.Parallel()
	free := func(string) bool { return false }
	a := targetID("/sys/fs/cgroup/a", free)
	if len(a) != 8 || a != targetID("/sys/fs/cgroup/a", free) || a == targetID("/sys/fs/cgroup/b", free) {
		t.Errorf("id %q", a)
	}
	longer := targetID("/sys/fs/cgroup/a", func(id string) bool { return id == a })
	if longer == a || longer[:8] != a {
		t.Errorf("a taken id is followed by %q", longer)
	}
}

func TestNewRefusesMissingParts(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil {
		t.Error("an Interceptor out of nothing")
	}
}
