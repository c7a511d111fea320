package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluice-proxy/sluice/pool"
)

const (
	// kindBroken is the line with which the log goes on after damage was found.
	kindBroken = "audit_broken"
	// macLen is a SHA-256 in hexadecimal.
	macLen = 2 * sha256.Size
	// maxText bounds a text of an event, and with six bytes for an escaped
	// character and nine texts, maxLine is more than a line can have.
	maxText = 64 << 10
	maxLine = 4 << 20

	prevKey = `,"prev":"`
	macKey  = `,"mac":"`
)

// noMAC is what the very first line follows.
var noMAC = strings.Repeat("0", macLen)

// record is a line without its mac. Prev has to be the last field: the mac is
// computed and checked without parsing JSON.
type record struct {
	Seq     int64     `json:"seq"`
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`
	Pool    string    `json:"pool"`
	Member  string    `json:"member"`
	Target  string    `json:"target"`
	Reason  string    `json:"reason"`
	Detail  string    `json:"detail"`
	To      string    `json:"to,omitempty"`
	Until   time.Time `json:"until,omitzero"`
	Since   time.Time `json:"since,omitzero"`
	Members int       `json:"members,omitempty"`
	Actor   string    `json:"actor,omitempty"`
	// BrokenLine is where in Target damage was found (kindBroken).
	BrokenLine int `json:"broken_line,omitempty"`
	// Head is the generation of the head at the time of writing.
	Head uint64 `json:"head"`
	Prev string `json:"prev"`
}

func recordOf(e pool.Event) record {
	return record{
		Seq: e.Seq, Time: instant(e.Time), Kind: text(string(e.Kind)), Pool: text(e.Pool), Member: text(e.Member),
		Target: text(e.Target), Reason: text(e.Reason), Detail: text(e.Detail), To: text(e.To),
		Until: instant(e.Until), Since: instant(e.Since), Members: e.Members, Actor: text(e.Actor),
	}
}

// instant is a time that JSON can hold (RFC 3339 has four digits for the year):
// one event out of the calendar must not stop the log.
func instant(t time.Time) time.Time {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return time.Time{}
	}
	return t
}

// text cuts what is longer than an event's text can sensibly be.
func text(s string) string {
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// sealer computes macs with the log's key. It is not safe for concurrent use.
type sealer struct{ hash hash.Hash }

func newSealer(key []byte) *sealer { return &sealer{hmac.New(sha256.New, key)} }

// sum is the mac of body after prefix: the previous line's mac for a line,
// headPrefix, which no mac looks like, for the head.
func (s *sealer) sum(prefix string, body []byte) string {
	s.hash.Reset()
	s.hash.Write([]byte(prefix))
	s.hash.Write(body)
	return hex.EncodeToString(s.hash.Sum(nil))
}

// seal appends the line of r to into and returns its mac.
func (s *sealer) seal(into *bytes.Buffer, r record) (string, error) {
	start := into.Len()
	encoder := json.NewEncoder(into)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil {
		into.Truncate(start)
		return "", err
	}
	into.Truncate(into.Len() - len("}\n"))
	mac := s.sum(r.Prev, into.Bytes()[start:])
	into.WriteString(macKey + mac + "\"}\n")
	return mac, nil
}

// open checks a line, without its newline, against its own mac. A line's bytes
// are all covered: those before the mac by it, the others have one form only.
func (s *sealer) open(line []byte) (r record, mac string, ok bool) {
	body, mac, ok := s.split(line)
	if !ok || len(body) < len(prevKey)+macLen+1 || body[len(body)-1] != '"' {
		return record{}, "", false
	}
	at := len(body) - 1 - macLen
	prev := string(body[at : at+macLen])
	if !bytes.HasSuffix(body[:at], []byte(prevKey)) || !hmac.Equal([]byte(s.sum(prev, body)), []byte(mac)) {
		return record{}, "", false
	}
	r, ok = facts(body[:at-len(prevKey)])
	if !ok && json.Unmarshal(append(bytes.Clone(body), '}'), &r) != nil {
		return record{}, "", false
	}
	r.Prev = prev
	return r, mac, true
}

// facts reads what a chain needs of a line that seal has made: Seq, Time, Kind and
// Head. All of a log is read at its start, and JSON would take most of that time.
// It is not ok for a line whose other fields matter.
func facts(body []byte) (r record, ok bool) {
	seq, rest, ok1 := bytes.Cut(bytes.TrimPrefix(body, []byte(`{"seq":`)), []byte(`,"time":"`))
	at, rest, ok2 := bytes.Cut(rest, []byte(`","kind":"`))
	kind, _, ok3 := bytes.Cut(rest, []byte(`","pool":"`))
	head := body[bytes.LastIndexByte(body, ':')+1:]
	if !ok1 || !ok2 || !ok3 || string(kind) == kindBroken || !bytes.HasSuffix(body, append([]byte(`,"head":`), head...)) {
		return record{}, false
	}
	r.Kind = string(kind)
	errs := make([]error, 3)
	r.Seq, errs[0] = strconv.ParseInt(string(seq), 10, 64)
	r.Head, errs[1] = strconv.ParseUint(string(head), 10, 64)
	r.Time, errs[2] = time.Parse(time.RFC3339Nano, string(at))
	return r, errors.Join(errs...) == nil
}

// split takes the mac off a line.
func (s *sealer) split(line []byte) (body []byte, mac string, ok bool) {
	rest, ok := bytes.CutSuffix(line, []byte(`"}`))
	if !ok || len(rest) < macLen+len(macKey) {
		return nil, "", false
	}
	mac = string(rest[len(rest)-macLen:])
	body, ok = bytes.CutSuffix(rest[:len(rest)-macLen], []byte(macKey))
	return body, mac, ok
}
