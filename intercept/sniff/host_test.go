package sniff

import (
	"errors"
	"strings"
	"testing"
)

func TestCanonicalHost(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	long := strings.Join([]string{label, label, label, strings.Repeat("a", 61)}, ".") // 253 characters
	for in, want := range map[string]struct {
		host string
		port uint16
		err  error
	}{
		"api.example":              {host: "api.example"},
		"API.Example":              {host: "api.example"},
		"api.example.":             {host: "api.example"},
		"API.example.:443":         {host: "api.example", port: 443},
		"api.example:443":          {host: "api.example", port: 443},
		"api.example:00080":        {host: "api.example", port: 80},
		"api.example:65535":        {host: "api.example", port: 65535},
		"api.example:":             {host: "api.example"},
		"localhost":                {host: "localhost"},
		"1password.example":        {host: "1password.example"},
		"a-b.example":              {host: "a-b.example"},
		"Bücher.example":           {host: "xn--bcher-kva.example"},
		"bu\u0308cher.example":     {host: "xn--bcher-kva.example"}, // decomposed
		"XN--BCHER-KVA.example":    {host: "xn--bcher-kva.example"},
		"api\u3002example":         {host: "api.example"}, // the ideographic full stop
		"api.example\u3002":        {host: "api.example"},
		"ａｐｉ.example":              {host: "api.example"}, // full-width
		label + ".example":         {host: label + ".example"},
		long:                       {host: long},
		long + ".":                 {host: long},
		"192.0.2.1":                {err: ErrAddress},
		"192.0.2.1.":               {err: ErrAddress},
		"192.0.2.1:80":             {err: ErrAddress},
		"１９２.0.2.1":                {err: ErrAddress},
		"2001:db8::1":              {err: ErrAddress},
		"::ffff:192.0.2.1":         {err: ErrAddress},
		"fe80::1%eth0":             {err: ErrAddress},
		"[2001:db8::1]":            {err: ErrAddress},
		"[2001:db8::1]:443":        {err: ErrAddress},
		"":                         {err: ErrNotHost},
		".":                        {err: ErrNotHost},
		"..":                       {err: ErrNotHost},
		":443":                     {err: ErrNotHost},
		".example":                 {err: ErrNotHost},
		"api..example":             {err: ErrNotHost},
		"api.example..":            {err: ErrNotHost},
		"API..example":             {err: ErrNotHost},
		"api.example:0":            {err: ErrNotHost},
		"api.example:65536":        {err: ErrNotHost},
		"api.example:+80":          {err: ErrNotHost},
		"api.example:-1":           {err: ErrNotHost},
		"api.example:http":         {err: ErrNotHost},
		"api.example:80:81":        {err: ErrNotHost},
		"user@api.example":         {err: ErrNotHost},
		"api.example/path":         {err: ErrNotHost},
		"api example":              {err: ErrNotHost},
		"api_x.example":            {err: ErrNotHost},
		"api.example\x00":          {err: ErrNotHost},
		"api.example\n":            {err: ErrNotHost},
		"*.example":                {err: ErrNotHost},
		"-api.example":             {err: ErrNotHost},
		"api-.example":             {err: ErrNotHost},
		"xn--a.example":            {err: ErrNotHost}, // no valid punycode
		"xn--.example":             {err: ErrNotHost},
		"\xff.example":             {err: ErrNotHost},
		"a" + label + ".example":   {err: ErrNotHost},
		"A" + label + ".example":   {err: ErrNotHost},
		"a" + long:                 {err: ErrNotHost},
		strings.Repeat("ü", 1<<20): {err: ErrNotHost},
	} {
		host, port, err := CanonicalHost(in)
		if host != want.host || port != want.port || !errors.Is(err, want.err) {
			t.Errorf("%.80q: got %q, %d, %v; want %+v", in, host, port, err, want)
		}
	}
}
