package pool

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/sluice-proxy/sluice/pool/echo"
)

// Route is what a bound host and port resolve to for one target. It is looked
// up once a connection, is a plain value and never changes.
type Route struct {
	Pool     string // the pool's name
	Host     string // canonical: lower case, A-label, no trailing dot, no port
	Port     uint16
	Provider string // preset's name, "" for a pool made with --host
	// Tokens is true where a pool's token endpoint is: see [Keeper.TokenEndpoint].
	Tokens bool
	// Bare is true if no pool is bound to the host otherwise: requests carry what the
	// agent sent.
	Bare bool
	// Costless is true for a request that does not find out whether a member is back: see
	// [Costless].
	Costless bool
	// Aside is true for a request whose refusal is about nothing but itself: see [Aside].
	Aside bool
	// Standing is true for a request that a member may answer that is out: see [Standing].
	Standing bool
}

// Field is one header field as it goes on the wire. Value holds a secret: it is
// shared, must not be changed and must not be logged.
type Field struct {
	Name  string // lower case (RFC 9113 section 8.2.1 demands it, RFC 9110 section 5.1 allows it)
	Value []byte
}

// Format implements [fmt.Formatter]: whatever the verb, the value is not shown.
func (f Field) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, f.Name+": REDACTED") }

// MarshalText implements [encoding.TextMarshaler], which encoding/json heeds too.
func (f Field) MarshalText() ([]byte, error) { return []byte(f.Name + ": REDACTED"), nil }

// LogValue implements [slog.LogValuer].
func (f Field) LogValue() slog.Value { return slog.StringValue(f.Name + ": REDACTED") }

// Lease is the right, and the duty, to send one attempt of a request with one
// member. What a request carries comes from one lease only, and its answer
// judges that lease's member only. A Lease is a small value; the slices are
// shared and read-only.
type Lease struct {
	Pool   string
	Member string
	// Sent is when the attempt was leased: an answer ends a cooldown only if it
	// was sent after that cooldown began.
	Sent time.Time
	// Probe is true when the member is still cooling and this request is the
	// one allowed to find out whether it is back.
	Probe bool
	// Refreshable is true for an OAuth account: if its access token is not accepted,
	// [Keeper.Refresh] may have another.
	Refreshable bool
	// Inject is set on the request, replacing any field of the same name.
	Inject []Field
	// Also are elements of fields that are lists (RFC 9110 section 5.6.1): each is added to
	// what the agent sent in that field, unless it is there.
	Also []Field
	// Strip names the header fields (lower case) in which an agent may have
	// sent a credential of its own: all of them are removed.
	Strip []string
	// StripQuery names the query parameters that are removed likewise.
	StripQuery []string
	// Echo finds the member's secrets in an answer; nil if it has none to look for.
	Echo *echo.Matcher

	stale  bool   // the access token has ended
	member int64  // the membership that the lease was made for
	tally  *tally // of it
}

// Answer is what the pool needs to know of an upstream's response.
type Answer struct {
	Status int
	Header http.Header // nil is allowed when Status is below 400
	// Body is the beginning of the decoded body, at most MaxAnswerBody bytes;
	// only statuses for which NeedsBody is true are judged by it.
	Body []byte
	// At is when the header section arrived.
	At time.Time
	// Aside is true for the answer to a request of which [Aside] says so: only what names
	// the account's own window or credit judges the member then.
	Aside bool
	// Begun is when the answer's header section arrived, if what Status and Body say came in the midst of an answer that had begun as a
	// good one: see [LaterEvents]. Zero: with it.
	Begun time.Time
	// Costless is true for the answer to a request of which [Costless] says so: a good one
	// does not say that a quota is there again.
	Costless bool
}

// MaxAnswerBody is how many bytes of an error body are ever looked at.
const MaxAnswerBody = 64 << 10
