package sniff

import (
	"errors"
	"strings"
	"testing"
)

func TestParseHTTP(t *testing.T) {
	t.Parallel()
	const rest = "\r\nAccept: */*\r\n\r\n"
	http := func(host string) Hello { return Hello{Kind: KindHTTP, Host: host} }
	for name, c := range map[string]struct {
		b    string
		want Hello
		err  error
	}{
		"get":                    {b: "GET / HTTP/1.1\r\nHost: a.example" + rest, want: http("a.example")},
		"1.0":                    {b: "GET / HTTP/1.0\r\nhOST:a.example:80 " + rest, want: http("a.example:80")},
		"lines end in LF":        {b: "POST /v1 HTTP/1.1\nHost:\ta.example\n\n", want: http("a.example")},
		"a method with a hyphen": {b: "VERSION-CONTROL / HTTP/1.1\r\nHost: a" + rest, want: http("a")},
		"begins as the preface":  {b: "PRI / HTTP/1.1\r\nHost: a" + rest, want: http("a")},
		"no host":                {b: "GET / HTTP/1.1" + rest, want: http("")},
		"no fields":              {b: "GET / HTTP/1.0\r\n\r\n", want: http("")},
		"an empty host":          {b: "GET / HTTP/1.1\r\nHost:" + rest, want: http("")},
		"absolute-form":          {b: "GET http://b.example:81/x HTTP/1.1\r\nHost: a.example" + rest, want: http("b.example:81")},
		"absolute-form and user": {b: "GET http://a.example@b.example HTTP/1.1\r\nHost: a.example" + rest, want: http("b.example")},
		"absolute-form, query":   {b: "GET http://b.example?a@c.example HTTP/1.1\r\nHost: a.example" + rest, want: http("b.example")},
		"a URL in the path":      {b: "GET /http://b.example/ HTTP/1.1\r\nHost: a.example" + rest, want: http("a.example")},
		"connect":                {b: "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example" + rest, want: http("b.example:443")},
		"options":                {b: "OPTIONS * HTTP/1.1\r\nHost: a.example" + rest, want: http("a.example")},
		"host in the body":       {b: "POST / HTTP/1.1\r\n\r\nHost: a.example\r\n", want: http("")},
		"two hosts":              {b: "GET / HTTP/1.1\r\nHost: a\r\nHost: b" + rest, err: ErrMalformed},
		"the same host twice":    {b: "GET / HTTP/1.1\r\nHost: a\r\nHost: a" + rest, err: ErrMalformed},
		"h2c":                    {b: preface + "\x00\x00\x00\x04", want: Hello{Kind: KindH2C}},

		"ssh":                     {b: "SSH-2.0-OpenSSH_9.2\r\n"},
		"smtp":                    {b: "EHLO mail.example\r\n"},
		"imap":                    {b: "a001 LOGIN x y\r\n"},
		"postgres":                {b: "\x00\x00\x00\x08\x04\xd2\x16\x2f"},
		"a space first":           {b: " GET / HTTP/1.1\r\n"},
		"a line break first":      {b: "\r\nGET / HTTP/1.1\r\n"},
		"0.9":                     {b: "GET /\r\n"},
		"2":                       {b: "GET / HTTP/2.0\r\n"},
		"a method over-long":      {b: strings.Repeat("A", maxMethod+1)},
		"TLS of version 2":        {b: "\x16\x02\x00\x00\x05hello"},
		"a TLS alert":             {b: "\x15\x03\x01\x00\x02\x02\x28", err: ErrMalformed},
		"a line over-long":        {b: "GET /" + strings.Repeat("a", MaxHello) + " HTTP/1.1\r\n\r\n", err: ErrTooLong},
		"another line, over-long": {b: "GET /" + strings.Repeat("a", MaxHello) + "\r\n", err: ErrTooLong},
		"a head over-long":        {b: "GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", MaxHello/6) + "\r\n", err: ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse([]byte(c.b))
			if !same(got, c.want) || !errors.Is(err, c.err) {
				t.Fatalf("got %+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
			if len(c.b) < 1<<12 {
				checkCuts(t, []byte(c.b))
			}
		})
	}
}

func TestParseAtTheLimit(t *testing.T) {
	t.Parallel()
	const line, end = "GET / HTTP/1.1\r\nHost: a\r\nB: ", "\r\n\r\n"
	fits := []byte(line + strings.Repeat("b", MaxHello-len(line)-len(end)) + end)
	if h, err := Parse(fits); err != nil || h.Host != "a" {
		t.Fatalf("%d bytes: %+v, %v", len(fits), h, err)
	}
	over := []byte(line + strings.Repeat("b", MaxHello-len(line)-len(end)+1) + end)
	for n, want := range map[int]error{len(fits) - 1: ErrIncomplete, MaxHello: ErrIncomplete, MaxHello + 1: ErrTooLong} {
		if _, err := Parse(over[:n]); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
	if _, err := Parse(nil); !errors.Is(err, ErrIncomplete) {
		t.Errorf("no bytes: %v", err)
	}
}
