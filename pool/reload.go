package pool

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/sluice-proxy/sluice/pool/echo"
)

// reload has the view show all that the store holds now. The lock is held.
func (k *Keeper) reload(ctx context.Context) error {
	cfg, err := k.opts.Store.Config(ctx)
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	var pools, credentials []string
	for name := range k.view.pools.all() {
		pools = append(pools, name)
	}
	for name := range k.view.credentials.all() {
		credentials = append(credentials, name)
	}
	return k.absorb(cfg, pools, credentials)
}

// look has the view show what the store holds now of one pool, if any is named, and of credentials, those of its members
// included. To read all of it would make a change take the longer the more there is. What could not be looked at once is at
// the next change. The lock is held.
func (k *Keeper) look(ctx context.Context, pool string, credentials ...string) (err error) {
	defer func() { k.view.behind = err != nil }()
	if k.view.behind {
		return k.reload(ctx)
	}
	var pools []string
	if pool != "" {
		pools = []string{pool}
	}
	if p := k.view.pool(pool); p != nil {
		for i := range p.members { // they may have left
			credentials = append(credentials, p.members[i].name)
		}
	}
	cfg, err := k.opts.Store.ConfigOf(ctx, pool, credentials)
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	return k.absorb(cfg, pools, credentials)
}

// absorb has the view show what was read of the store, which is all that it holds of these pools and credentials. It shows all
// of it or nothing.
func (k *Keeper) absorb(cfg Config, pools, credentials []string) error {
	records := make(map[string]*CredentialRecord)
	for i := range cfg.Credentials {
		records[cfg.Credentials[i].Credential.Name] = &cfg.Credentials[i]
	}
	there := make(map[string]*poolView)
	for i := range cfg.Pools {
		r := &cfg.Pools[i]
		p, err := k.poolView(r, records)
		if err != nil {
			return err
		}
		there[r.Pool.Name] = p
	}
	v, ports, tended := &k.view, false, false
	for _, name := range credentials {
		if records[name] == nil {
			tended = v.enlist(Credential{Name: name}, false) || tended
		}
	}
	for _, r := range records {
		tended = v.enlist(r.Credential, true) || tended
	}
	for _, name := range pools {
		if before := v.pool(name); before != nil && (there[name] == nil || there[name].id != before.id) {
			ports = v.replace(before, nil) || ports
		}
	}
	for name, p := range there {
		ports = v.replace(v.pool(name), p) || ports
	}
	for _, c := range k.unsaved.changes { // the store is behind
		if p := v.byID[c.Pool]; p != nil && there[p.pool.Name] == p {
			v.show(p, c)
		}
	}
	if ports {
		v.moved.raise()
	}
	if tended {
		v.tends.raise()
	}
	return nil
}

// poolView makes a pool out of what is stored of it and of its members. What goes on from one view of it to the next is that of
// the one that is shown.
func (k *Keeper) poolView(r *PoolRecord, credentials map[string]*CredentialRecord) (*poolView, error) {
	before := k.view.byID[r.ID]
	p := &poolView{id: r.ID, pool: r.Pool, owned: tieRulesOf(r.Pool.Provider), line: new(line), tied: new(line)}
	if before != nil {
		p.line, p.tied = before.line, before.tied
	}
	p.active.Store(r.Active)
	p.state.Store(r.State)
	p.told.Store(r.Told)
	p.since = r.Since
	preset, err := ProviderByName(r.Pool.Provider)
	if err != nil {
		preset = Provider{} // a pool made with --host
	}
	p.stripQry = preset.StripQuery
	for _, b := range r.Pool.Bindings {
		p.bind(hostPort{b.Host, b.Port})
	}
	if preset.Env != "" {
		p.variable = []string{preset.Env}
	}
	k.learnPlaceholders(p)
	p.bindEndpoint(preset.TokenURL)
	p.strip = slices.Clone(preset.Strip)
	p.members = make([]memberView, len(r.Members))
	for i, mr := range r.Members {
		m := &p.members[i]
		m.id, m.name = mr.ID, mr.Credential
		m.parked.Store(mr.Parked)
		m.tally = tallyOf(mr.ID, before)
		if err := k.fill(p, m, credentials[mr.Credential], preset, before.memberNamed(m.name)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// fill makes a member of what is stored of its credential. before is the one of that in the view that is shown, or nil.
func (k *Keeper) fill(p *poolView, m *memberView, r *CredentialRecord, preset Provider, before *memberView) error {
	c := r.Credential
	if c.Type == OAuth {
		m.refreshable = c.TokenURL != "" || preset.TokenURL != ""
		if !c.ExpiresAt.IsZero() {
			m.ends = c.ExpiresAt.UnixNano()
		}
	}
	if before != nil && bytes.Equal(before.opened.sealed, r.Sealed) {
		m.opened = before.opened
	} else {
		mat, err := k.open(r)
		if err != nil {
			return err
		}
		m.opened = opened{r.Sealed, mat}
	}
	mat := m.opened.material
	k.learn(p, mat)
	m.echo = sync.OnceValue(func() *echo.Matcher { return k.echoOf(p.pool, mat) })
	p.bindEndpoint(c.TokenURL)
	for _, b := range p.pool.Bindings {
		fields, err := fieldsOf(b, preset, c.Type, mat)
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.pool.Name, err)
		}
		m.inject = append(m.inject, fields)
		m.also = append(m.also, alsoOf(b, preset, preset.ofAccount(c.Type, mat.token()), fields))
		for _, f := range fields {
			if !slices.Contains(p.strip, f.Name) {
				p.strip = append(p.strip, f.Name)
			}
		}
	}
	return nil
}

// bind notes that connections to a host may be ended for a pool.
func (p *poolView) bind(at hostPort) {
	p.routes = append(p.routes, at)
	if !slices.Contains(p.ports, at.port) {
		p.ports = append(p.ports, at.port)
	}
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
