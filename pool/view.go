package pool

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-proxy/sluice/pool/echo"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// view is the configuration as requests see it: read without a lock, replaced as
// a whole. Only what moves with answers is atomic in it.
type view struct {
	pools       map[string]*poolView
	ordered     []*poolView // oldest first
	byID        map[int64]*poolView
	tallies     map[int64]*tally                     // by member
	credentials sync.Map                             // Credential by name; those that no pool holds come and go in place
	routes      map[hostPort][]*poolView             // oldest first
	endpoints   map[hostPort][]*poolView             // with accounts that are refreshed there; oldest first
	paths       map[hostPort]map[string]endpointKind // of these token endpoints, clean
	known       map[tokenDigest]*poolView            // placeholders, and tokens of members
	opened      map[string]opened                    // credentials of members
	changed     signal                               // raised when the next view is in place
}

type hostPort struct {
	host string
	port uint16
}

type poolView struct {
	id       int64
	place    int // in the order of the view
	pool     Pool
	members  []memberView
	active   atomic.Int64 // id of a member
	state    atomic.Value // State: the last edge that was written
	told     atomic.Bool  // an agent was told that it is exhausted, and not reset since
	since    time.Time    // of that edge; guarded by the keeper's lock
	line     *line        // of the requests that are held
	tied     *line        // of those that are held for one member, in no order
	refresh  []hostPort   // of the token endpoints of its accounts
	owned    *tieRules    // what of its answers belongs to an account; nil: nothing
	strip    []string
	stripQry []string
}

type memberView struct {
	id     int64
	name   string
	parked atomic.Bool
	// refreshable and ends (nanoseconds since the epoch, 0: not known) are of an OAuth account.
	refreshable bool
	ends        int64
	inject      [][]Field // by binding
	also        [][]Field // likewise
	echo        func() *echo.Matcher
	tally       *tally
}

// credential is zero if there is none of the name.
func (v *view) credential(name string) (c Credential, there bool) {
	found, there := v.credentials.Load(name)
	if there {
		c = found.(Credential)
	}
	return c, there
}

// all are the credentials, in no order.
func (v *view) all() iter.Seq[Credential] {
	return func(yield func(Credential) bool) {
		v.credentials.Range(func(_, c any) bool { return yield(c.(Credential)) })
	}
}

// activeIndex is where selection begins.
func (p *poolView) activeIndex() int { return max(0, p.memberIndex(p.active.Load())) }

func (p *poolView) memberIndex(id int64) int {
	for i := range p.members {
		if p.members[i].id == id {
			return i
		}
	}
	return -1
}

func (p *poolView) binding(host string, port uint16) int {
	for i := range p.pool.Bindings {
		if p.pool.Bindings[i].Host == host && p.pool.Bindings[i].Port == port {
			return i
		}
	}
	return -1
}

// material is what a credential's sealed bytes hold.
type material struct {
	Secret  []byte            `json:"secret,omitempty"`
	Access  []byte            `json:"access,omitempty"`
	Refresh []byte            `json:"refresh,omitempty"`
	Extra   map[string][]byte `json:"extra,omitempty"`  // by field name
	Former  [][]byte          `json:"former,omitempty"` // digests of spent refresh tokens, oldest first
	// Fetched is the digest of what the source held when it was read last.
	Fetched []byte `json:"fetched,omitempty"`
}

// Format implements [fmt.Formatter]: whatever the verb, nothing is shown.
func (material) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "REDACTED") }

// LogValue implements [slog.LogValuer]. JSON is what it is sealed as.
func (material) LogValue() slog.Value { return slog.StringValue("REDACTED") }

// keep has what a keeper holds overwritten once no view and no lease has it any more.
func (m *material) keep() {
	for _, secret := range []*[]byte{&m.Secret, &m.Access, &m.Refresh} {
		if *secret != nil {
			*secret = vault.Keep(*secret)
		}
	}
	for name, value := range m.Extra {
		m.Extra[name] = vault.Keep(value)
	}
}

func (m *material) token() []byte {
	if m.Access != nil {
		return m.Access
	}
	return m.Secret
}

// opened is what was sealed and what was found in it.
type opened struct {
	sealed   []byte
	material *material
}

// openOnce opens a credential for a view, unless it is sealed in the view before as it is now: to open all of them at
// every change would make each the slower the more there are.
func (k *Keeper) openOnce(v *view, r *CredentialRecord) (*material, error) {
	name := r.Credential.Name
	if before := k.view.Load(); before != nil {
		if o, ok := before.opened[name]; ok && bytes.Equal(o.sealed, r.Sealed) {
			v.opened[name] = o
			return o.material, nil
		}
	}
	m, err := k.open(r)
	if err != nil {
		return nil, err
	}
	v.opened[name] = opened{r.Sealed, m}
	return m, nil
}

func (k *Keeper) seal(m *material) ([]byte, error) {
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a secret: %w", err)
	}
	s := vault.NewSecret(plain)
	defer s.Zero()
	return k.opts.Vault.Encrypt(s)
}

func (k *Keeper) open(r *CredentialRecord) (*material, error) {
	plain, err := k.opts.Vault.Decrypt(r.Sealed)
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", r.Credential.Name, err)
	}
	defer plain.Zero()
	var m material
	if err := json.Unmarshal(plain.Bytes(), &m); err != nil {
		return nil, fmt.Errorf("credential %s: decode: %w", r.Credential.Name, err)
	}
	m.keep()
	return &m, nil
}

// reload builds a view of what the store holds now and puts it in place.
func (k *Keeper) reload(ctx context.Context) error {
	cfg, err := k.opts.Store.Config(ctx)
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	v := &view{
		pools: make(map[string]*poolView), byID: make(map[int64]*poolView), tallies: make(map[int64]*tally),
		routes: make(map[hostPort][]*poolView), endpoints: make(map[hostPort][]*poolView), paths: make(map[hostPort]map[string]endpointKind), known: make(map[tokenDigest]*poolView),
		opened: make(map[string]opened),
	}
	v.changed.init()
	records := make(map[string]*CredentialRecord)
	for i := range cfg.Credentials {
		r := &cfg.Credentials[i]
		records[r.Credential.Name] = r
		v.credentials.Store(r.Credential.Name, r.Credential)
	}
	for i := range cfg.Pools {
		p, err := k.poolView(v, &cfg.Pools[i], records)
		if err != nil {
			return err
		}
		p.place = len(v.ordered)
		v.pools[p.pool.Name], v.byID[p.id] = p, p
		v.ordered = append(v.ordered, p)
		for _, b := range p.pool.Bindings {
			at := hostPort{b.Host, b.Port}
			v.routes[at] = append(v.routes[at], p)
		}
	}
	for i := range k.unsaved.changes { // the store is behind
		v.catchUp(&k.unsaved.changes[i])
	}
	if old := k.view.Swap(v); old != nil {
		old.changed.raise()
	}
	return nil
}

func (k *Keeper) poolView(v *view, r *PoolRecord, credentials map[string]*CredentialRecord) (*poolView, error) {
	p := &poolView{id: r.ID, pool: r.Pool, owned: tieRulesOf(r.Pool.Provider)}
	p.line, p.tied = k.linesOf(r.ID)
	p.active.Store(r.Active)
	p.state.Store(r.State)
	p.told.Store(r.Told)
	p.since = r.Since
	preset, err := ProviderByName(r.Pool.Provider)
	if err != nil {
		preset = Provider{} // a pool made with --host
	}
	p.stripQry = preset.StripQuery
	k.learnPlaceholders(v, p)
	v.bindEndpoint(p, preset.TokenURL)
	strip := slices.Clone(preset.Strip)
	p.members = make([]memberView, len(r.Members))
	for i, mr := range r.Members {
		m := &p.members[i]
		m.id, m.name, m.tally = mr.ID, mr.Credential, v.tallyOf(mr.ID, k.view.Load())
		m.parked.Store(mr.Parked)
		record := credentials[mr.Credential]
		if c := record.Credential; c.Type == OAuth {
			m.refreshable = c.TokenURL != "" || preset.TokenURL != ""
			if !c.ExpiresAt.IsZero() {
				m.ends = c.ExpiresAt.UnixNano()
			}
		}
		mat, err := k.openOnce(v, record)
		if err != nil {
			return nil, err
		}
		k.learn(v, p, mat)
		m.echo = sync.OnceValue(func() *echo.Matcher { return k.echoOf(p.pool, mat) })
		v.bindEndpoint(p, record.Credential.TokenURL)
		for _, b := range r.Pool.Bindings {
			fields, err := fieldsOf(b, preset, record.Credential.Type, mat)
			if err != nil {
				return nil, fmt.Errorf("pool %s: %w", r.Pool.Name, err)
			}
			m.inject = append(m.inject, fields)
			m.also = append(m.also, alsoOf(b, preset, preset.ofAccount(record.Credential.Type, mat.token()), fields))
			for _, f := range fields {
				if !slices.Contains(strip, f.Name) {
					strip = append(strip, f.Name)
				}
			}
		}
	}
	p.strip = strip
	return p, nil
}

// linesOf are the lines of the view before, in which requests may wait, or new ones.
func (k *Keeper) linesOf(id int64) (all, tied *line) {
	if old := k.view.Load(); old != nil && old.byID[id] != nil {
		return old.byID[id].line, old.byID[id].tied
	}
	return new(line), new(line)
}

// fieldsOf is what a request carries with one member: the binding's field with its
// secret, and the fields that belong to the account.
func fieldsOf(b Binding, preset Provider, t CredentialType, m *material) ([]Field, error) {
	header := b.Header
	if header == preset.Header { // the preset's own, which may differ by the kind of credential
		header = preset.templateFor(preset.ofAccount(t, m.token()))
	}
	tmpl, err := parseTemplate(header)
	if err != nil {
		return nil, err
	}
	fields := []Field{tmpl.render(m.token())}
	for _, f := range extraOf(preset, t, m) {
		// Exactly one credential goes out: the binding's.
		if f.Name != tmpl.name {
			fields = append(fields, f)
		}
	}
	sort.Slice(fields[1:], func(i, j int) bool { return fields[1+i].Name < fields[1+j].Name })
	return fields, nil
}

// alsoOf is what the API wants to be told besides, if the token is an account's: unless the
// binding has a field of its own, or that field is one of those given with the account.
func alsoOf(b Binding, preset Provider, account bool, fields []Field) []Field {
	given := func(f Field) bool { return f.Name == preset.oauthAlso.Name }
	if !account || preset.oauthAlso.Name == "" || b.Header != preset.Header || slices.ContainsFunc(fields, given) {
		return nil
	}
	return []Field{preset.oauthAlso}
}

// Changed returns a channel that is closed when pools or credentials change after
// this call.
func (k *Keeper) Changed() <-chan struct{} { return k.view.Load().changed.wait() }
