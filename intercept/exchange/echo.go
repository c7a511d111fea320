package exchange

import (
	"bytes"

	"github.com/sluice-proxy/sluice/pool"
)

// Echoed is a member's secret that an upstream repeated: a placeholder went to the agent
// in its place.
type Echoed struct {
	Pool   string
	Member string
	Host   string
	// Cut is true if the answer was cut off instead: it was compressed, and had begun.
	Cut bool
}

// maxWhole is how long a body may be, in bytes, and still be waited for before it is passed
// on: what is replaced in it may then be of another length.
const maxWhole = 192 << 10

// echoState is what is known of a body before it is passed on.
type echoState uint8

const (
	echoClean   echoState = iota
	echoFound             // another body goes out instead
	echoUnknown           // not all of it is there
)

// echoed notes that a secret was found in an answer.
func (x *Exchanger) echoed(l *pool.Lease, host string, cut bool) {
	x.counts.echoes.Add(1)
	if x.opts.Echoed != nil {
		x.opts.Echoed(Echoed{Pool: l.Pool, Member: l.Member, Host: host, Cut: cut})
	}
}

// own is what an agent sent of its own in a field that belongs to the account, such as its
// id: in documents it finds that again, not what the member sent.
type own struct{ theirs, agents []byte } // as JSON strings

// ownFields are the fields of a lease of which the agent sent another value.
func ownFields(l *pool.Lease, sent func(name string) string) []own {
	var all []own
	for _, f := range l.Inject[min(1, len(l.Inject)):] {
		if v := sent(f.Name); v != "" && v != string(f.Value) && isPlain(v) && isPlain(string(f.Value)) {
			all = append(all, own{[]byte(`"` + string(f.Value) + `"`), []byte(`"` + v + `"`)})
		}
	}
	return all
}

// isPlain says whether a text is written in JSON as it is.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '/' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return len(s) > 0
}

// cleaned is what an agent gets of a body; ok is false if it gets the body as it is.
func cleaned(text []byte, l *pool.Lease, mine []own) (body []byte, echoes, ok bool) {
	if l.Echo != nil {
		echoes = l.Echo.Contains(text)
	}
	for _, o := range mine {
		ok = ok || bytes.Contains(text, o.theirs)
	}
	if !echoes && !ok {
		return nil, false, false
	}
	body = text
	if echoes {
		body = l.Echo.Replace(body)
	}
	for _, o := range mine {
		body = bytes.ReplaceAll(body, o.theirs, o.agents)
	}
	return body, echoes, true
}

// readable is a body without its coding; false if that is not known or it is too long.
func readable(raw []byte, encoding string) ([]byte, bool) {
	text := decode(raw, encoding, maxUnpacked+1)
	return text, len(text) <= maxUnpacked && (len(text) > 0 || len(raw) == 0)
}

// worthWaiting says whether a body is one that agents read as a whole.
func worthWaiting(contentType, encoding string, length int64) bool {
	return length <= maxWhole && !isEventStream(contentType) && (encoding != "" || isJSON(contentType))
}

// describesBody says whether a field is about a body's very bytes.
func describesBody(name []byte) bool {
	for _, n := range [...]string{"content-length", "content-encoding", "transfer-encoding", "trailer", "etag", "content-md5", "digest", "content-digest", "repr-digest"} {
		if equalFold(name, n) {
			return true
		}
	}
	return false
}
