package simulator

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sort"
	"strings"
	"sync"
	"time"
)

// DefaultWindow is how long a spent credential is refused when its behaviour
// names no window.
const DefaultWindow = time.Minute

// Credential is a key or an account that the simulator knows.
type Credential struct {
	// Name is what the journal calls it.
	Name string `toml:"name"`
	// Secret is the key, or the account's first access token.
	Secret string `toml:"secret"`
	// RefreshToken makes it an account: the token endpoint takes this token
	// once and answers with new ones. "" = a static key.
	RefreshToken string `toml:"refresh_token"`
	// ExpiresIn is how long an access token from the token endpoint is good
	// for. 0 = an hour. The first one, Secret, never expires.
	ExpiresIn Duration `toml:"expires_in"`
	// AccountID has to come along in chatgpt-account-id on the paths of
	// chatgpt.com, and any other value is refused. "" = not looked at.
	AccountID string `toml:"account_id"`

	Behaviour
}

// Behaviour is how the simulator treats a credential. The zero value answers everything.
type Behaviour struct {
	// Quota is how many requests are answered until the next one is refused. 0 = no limit.
	Quota int `toml:"quota" json:"quota,omitempty"`
	// Window is how long requests are refused, from the first refusal; then the
	// quota is full again. 0 = DefaultWindow.
	Window Duration `toml:"window" json:"window,omitempty"`
	// Refusal is the style of the refusal, see Styles. "" = the provider's usual one.
	Refusal string `toml:"refusal" json:"refusal,omitempty"`
	// Status, Header and Body are the answer of style "custom".
	Status int                 `toml:"status" json:"status,omitempty"`
	Header map[string][]string `toml:"header" json:"header,omitempty"`
	Body   string              `toml:"body" json:"body,omitempty"`
	// InStream refuses streaming requests with status 200 and an error as the first event.
	InStream bool `toml:"in_stream" json:"in_stream,omitempty"`
	// InStreamAfter is how many events of an answer come before that error. 0 = none.
	InStreamAfter int `toml:"in_stream_after" json:"in_stream_after,omitempty"`
	// Early refuses before the request's body has been read.
	Early bool `toml:"early" json:"early,omitempty"`
	// Delay passes before the header section of each answer.
	Delay Duration `toml:"delay" json:"delay,omitempty"`
	// Events is how many pieces of text a streamed answer has. 0 = one a word of the answer.
	Events int `toml:"events" json:"events,omitempty"`
	// Interval passes between two events of a stream.
	Interval Duration `toml:"interval" json:"interval,omitempty"`
	// ResetAfter resets the connection (RST) after that many events of a stream. 0 = never.
	ResetAfter int `toml:"reset_after" json:"reset_after,omitempty"`
}

func (b Behaviour) check() error {
	if b.Refusal != "" && b.Refusal != styleCustom {
		if _, ok := styles()[b.Refusal]; !ok {
			return fmt.Errorf("refusal %q: not one of %s", b.Refusal, strings.Join(Styles(), ", "))
		}
	}
	if b.Refusal == styleCustom && (b.Status < 200 || b.Status > 599) {
		return fmt.Errorf("refusal custom: status %d is not between 200 and 599", b.Status)
	}
	if b.Quota < 0 || b.Events < 0 || b.ResetAfter < 0 || b.InStreamAfter < 0 || b.Window < 0 || b.Delay < 0 || b.Interval < 0 {
		return errors.New("quota, window, delay, events, interval, reset_after and in_stream_after must not be negative")
	}
	return nil
}

func (b Behaviour) window() time.Duration {
	if b.Window == 0 {
		return DefaultWindow
	}
	return time.Duration(b.Window)
}

// meter counts what a credential has used.
type meter struct {
	used  int
	until time.Time // refused until then; zero = not refused
}

// ask counts a request and says whether it is refused.
func (m meter) ask(b Behaviour, now time.Time) (meter, bool) {
	if now.Before(m.until) {
		return m, true
	}
	if !m.until.IsZero() {
		m = meter{}
	}
	if b.Quota > 0 && m.used >= b.Quota {
		m.until = now.Add(b.window())
		return m, true
	}
	m.used++
	return m, false
}

// remaining is what the quota has left; without a quota, a large constant.
func (m meter) remaining(b Behaviour) (limit, left int) {
	if b.Quota == 0 {
		return 10000, 9999
	}
	return b.Quota, max(0, b.Quota-m.used)
}

// verdict is what the ledger decided about one request.
type verdict struct {
	Credential string // "" = none of the known ones
	Behaviour  Behaviour
	Account    string // the account id that has to come along
	Expired    bool
	Refused    bool
	Until      time.Time // the refusal's end
	Limit      int
	Left       int
}

// ledger knows the credentials, their secrets and what they have used.
type ledger struct {
	mu       sync.Mutex
	entries  map[string]*ledgerEntry
	access   map[string]grant  // access token or key -> whose
	refresh  map[string]string // refresh token -> whose
	consumed map[string]string // used refresh token -> whose it was
}

type ledgerEntry struct {
	credential Credential
	meter      meter
}

type grant struct {
	name    string
	expires time.Time // zero = never
}

func newLedger(credentials []Credential) (*ledger, error) {
	l := &ledger{
		entries: make(map[string]*ledgerEntry), access: make(map[string]grant),
		refresh: make(map[string]string), consumed: make(map[string]string),
	}
	for _, c := range credentials {
		switch {
		case c.Name == "" || c.Secret == "":
			return nil, fmt.Errorf("credential %q: name and secret are both needed", c.Name)
		case l.entries[c.Name] != nil:
			return nil, fmt.Errorf("credential %q: named twice", c.Name)
		case l.access[c.Secret].name != "":
			return nil, fmt.Errorf("credential %q: has the secret of %q", c.Name, l.access[c.Secret].name)
		}
		if err := c.Behaviour.check(); err != nil {
			return nil, fmt.Errorf("credential %q: %w", c.Name, err)
		}
		l.entries[c.Name] = &ledgerEntry{credential: c}
		l.access[c.Secret] = grant{name: c.Name}
		if c.RefreshToken != "" {
			l.refresh[c.RefreshToken] = c.Name
		}
	}
	return l, nil
}

// judge counts a request of the secret's credential.
func (l *ledger) judge(secret string, now time.Time) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	g, ok := l.access[secret]
	if !ok {
		return verdict{}
	}
	e := l.entries[g.name]
	v := verdict{Credential: g.name, Behaviour: e.credential.Behaviour, Account: e.credential.AccountID}
	if !g.expires.IsZero() && !now.Before(g.expires) {
		v.Expired = true
		return v
	}
	e.meter, v.Refused = e.meter.ask(v.Behaviour, now)
	v.Until = e.meter.until
	v.Limit, v.Left = e.meter.remaining(v.Behaviour)
	return v
}

// owner is the name that belongs to a secret, "" for an unknown one.
func (l *ledger) owner(secret string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.access[secret].name
}

// change edits an entry under the lock.
func (l *ledger) change(name string, edit func(*ledgerEntry)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[name]
	if e == nil {
		return fmt.Errorf("credential %q: %w", name, ErrUnknown)
	}
	edit(e)
	return nil
}

// ErrUnknown is wrapped where a credential is named that the simulator was not told of.
var ErrUnknown = errors.New("unknown to the simulator")

// SetBehaviour replaces a credential's behaviour and fills its quota.
func (s *Simulator) SetBehaviour(name string, b Behaviour) error {
	if err := b.check(); err != nil {
		return fmt.Errorf("credential %q: %w", name, err)
	}
	return s.ledger.change(name, func(e *ledgerEntry) { e.credential.Behaviour, e.meter = b, meter{} })
}

// Spend has a credential refused from now on, for d, whatever its quota.
func (s *Simulator) Spend(name string, d time.Duration) error {
	until := time.Now().Add(d)
	return s.ledger.change(name, func(e *ledgerEntry) { e.meter.until = until })
}

// Restore ends a refusal and fills the quota.
func (s *Simulator) Restore(name string) error {
	return s.ledger.change(name, func(e *ledgerEntry) { e.meter = meter{} })
}

// Usage is what a credential has used.
type Usage struct {
	Name      string    `json:"name"`
	Used      int       `json:"used"`
	Until     time.Time `json:"until,omitzero"` // refused until then
	Behaviour Behaviour `json:"behaviour"`
}

// Usage lists the credentials by name.
func (s *Simulator) Usage() []Usage {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	list := make([]Usage, 0, len(s.ledger.entries))
	for name, e := range s.ledger.entries {
		b := e.credential.Behaviour
		b.Header = maps.Clone(b.Header)
		list = append(list, Usage{Name: name, Used: e.meter.used, Until: e.meter.until, Behaviour: b})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// Presented is one place of a request in which a credential stood.
type Presented struct {
	Where      string `json:"where"`                // field name, or "query key"
	Credential string `json:"credential,omitempty"` // "" = unknown to the simulator
}

// credentialFields are where clients of the providers put what authenticates them.
func credentialFields() []string {
	return []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Proxy-Authorization"}
}

// presented finds every credential in a request; secret is the first one's.
func (l *ledger) presented(r *http.Request) (list []Presented, secret string) {
	add := func(where, value string) {
		list = append(list, Presented{Where: where, Credential: l.owner(value)})
		if secret == "" {
			secret = value
		}
	}
	for _, field := range credentialFields() {
		for _, value := range r.Header[field] {
			add(strings.ToLower(field), bareToken(value))
		}
	}
	for _, value := range r.URL.Query()["key"] {
		add("query key", value)
	}
	return list, secret
}

// bareToken drops the scheme of an Authorization value.
func bareToken(value string) string {
	scheme, token, found := strings.Cut(value, " ")
	if found && (strings.EqualFold(scheme, "bearer") || strings.EqualFold(scheme, "token")) {
		return strings.TrimSpace(token)
	}
	return value
}
