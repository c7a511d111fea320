package pool

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

// CreatePool makes a pool of stored credentials.
func (k *Keeper) CreatePool(ctx context.Context, p Pool) (Pool, error) {
	if err := p.validate(); err != nil {
		return Pool{}, err
	}
	e := Event{Kind: EventPoolCreated, Pool: p.Name, Members: len(p.Members), Detail: "members " + strings.Join(p.Members, ", ")}
	return p, k.configure(ctx, e, func(ctx context.Context) error {
		return k.opts.Store.CreatePool(ctx, p, k.opts.Now(), k.permitted(k.hostsOf(p)))
	})
}

// configure changes a pool, notes who asked for that, and has the view show it.
func (k *Keeper) configure(ctx context.Context, e Event, change func(context.Context) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.store(ctx, e, change); err != nil {
		return err
	}
	// The change is durable: finish it even if the caller has given up.
	if err := k.look(context.WithoutCancel(ctx), e.Pool); err != nil {
		return err
	}
	k.waiting.raise()
	return nil
}

// store makes a change durable, and who asked for it. The lock is held.
func (k *Keeper) store(ctx context.Context, e Event, change func(context.Context) error) error {
	if err := change(k.noting(ctx, e)); err != nil {
		return k.view.near(err)
	}
	k.events.raise()
	return nil
}

// Pools lists the pools by name.
func (k *Keeper) Pools(context.Context) ([]Pool, error) {
	var all []Pool
	for _, p := range k.view.pools.all() {
		all = append(all, p.pool)
	}
	slices.SortFunc(all, func(a, b Pool) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// find is to be called with the lock held: an edit puts another view of the pool in place, and
// what is changed in the one before is lost.
func (k *Keeper) find(name string) (*poolView, error) {
	if p := k.view.pool(name); p != nil {
		return p, nil
	}
	return nil, k.view.near(NoPool(name))
}

// PoolStatus is a pool as it is now: its active member is the one that the next
// request gets.
func (k *Keeper) PoolStatus(ctx context.Context, name string) (PoolStatus, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := k.find(name)
	if err != nil {
		return PoolStatus{}, err
	}
	now := k.opts.Now()
	members, err := k.candidates(ctx, p, nil)
	if err != nil {
		return PoolStatus{}, err
	}
	s := PoolStatus{
		Name: p.pool.Name, Strategy: p.pool.Strategy, Provider: p.pool.Provider, Bindings: slices.Clone(p.pool.Bindings),
		AuthResetTarget: p.pool.AuthResetTarget, AgentProfile: p.pool.AgentProfile, Container: p.pool.Container,
		Hold:  p.pool.Hold,
		State: stateOf(members, now),
	}
	s.Agent = k.agentTokensOf(p)
	active := choose(members, p.activeIndex(), now)
	for i := range p.members {
		m := MemberStatus{Name: p.members[i].name, State: MemberStandby}
		c, err := k.cooldownLocked(ctx, p.members[i].id)
		if err != nil {
			return PoolStatus{}, err
		}
		switch {
		case i == active:
			m.State = MemberActive
		case c.Out(now):
			m.State, m.Until, m.Reason = MemberCooldown, c.Until, c.Reason
		case members[i].parked:
			m.State, m.Reason = MemberParked, "rotated away"
		}
		s.Members = append(s.Members, m)
	}
	if active >= 0 {
		s.Active = p.members[active].name
	} else {
		s.RecoversAt = members[soonest(members)].until
	}
	return s, nil
}

// Rotate moves on to the next member that can serve and parks the one it leaves,
// or says why it cannot.
func (k *Keeper) Rotate(ctx context.Context, name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := k.find(name)
	if err != nil {
		return err
	}
	now := k.opts.Now()
	members, err := k.candidates(ctx, p, nil)
	if err != nil {
		return err
	}
	from := choose(members, p.activeIndex(), now)
	switch {
	case len(members) == 1:
		return Conflict("pool %q has no other member to rotate to", name)
	case from < 0:
		first := soonest(members)
		return Conflict("pool %q is exhausted: %q recovers first, in %s", name, p.members[first].name,
			Span(members[first].until.Sub(now)))
	}
	members[from].tried = true
	to := choose(members, from, now)
	if to < 0 {
		return Conflict("pool %q stays with %q: every other member is cooling down", name, p.members[from].name)
	}
	return k.decide(ctx, p, Change{
		Pool: p.id, Active: p.members[to].id, At: now,
		Events: asked(ctx, Event{Kind: EventPoolRotated, Pool: name, Member: p.members[from].name, To: p.members[to].name}),
		Parked: map[int64]bool{p.members[from].id: true, p.members[to].id: false},
	})
}

// Clear lifts the cooldown of a member, or of all of them if member is empty.
func (k *Keeper) Clear(ctx context.Context, name, member string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := k.find(name)
	if err != nil {
		return err
	}
	change := Change{Pool: p.id, Cooldowns: make(map[int64]Cooldown), At: k.opts.Now()}
	change.Events = asked(ctx, Event{Kind: EventPoolCleared, Pool: name, Member: member})
	back := ""
	for i := range p.members {
		if member == "" || p.members[i].name == member {
			change.Cooldowns[p.members[i].id] = Cooldown{}
			back = cmp.Or(back, p.members[i].name)
		}
	}
	if back == "" {
		return k.view.near(NoMember(name, member))
	}
	if p.state.Load() == StateExhausted {
		change.To, change.EdgeEvent = StateHealthy, recoveredEvent(p, back)
	}
	return k.decide(ctx, p, change)
}

// RemovePool removes a pool. Its credentials stay; its exhaustion ends unannounced.
func (k *Keeper) RemovePool(ctx context.Context, name string) error {
	e := Event{Kind: EventPoolRemoved, Pool: name}
	return k.configure(ctx, e, func(ctx context.Context) error { return k.opts.Store.RemovePool(ctx, name) })
}

// AddMember adds a credential as the last member. It begins without a cooldown.
func (k *Keeper) AddMember(ctx context.Context, pool, credential string) error {
	e := Event{Kind: EventMemberAdded, Pool: pool, Member: credential}
	return k.configure(ctx, e, func(ctx context.Context) error {
		return k.opts.Store.AddMember(ctx, pool, credential, k.permitted(k.endpointHostOf(credential)))
	})
}

// RemoveMember takes a credential out of a pool, which must keep at least one.
func (k *Keeper) RemoveMember(ctx context.Context, pool, credential string) error {
	e := Event{Kind: EventMemberRemoved, Pool: pool, Member: credential}
	return k.configure(ctx, e, func(ctx context.Context) error {
		then, err := k.without(ctx, pool, credential)
		if err != nil {
			return err
		}
		return k.opts.Store.RemoveMember(ctx, pool, credential, then)
	})
}

// SetAuthResetTarget says what the agent's auth reset is run for when the pool recovers; "" is nothing.
func (k *Keeper) SetAuthResetTarget(ctx context.Context, pool, target string) error {
	if target != "" {
		if err := ValidName("target", target); err != nil {
			return err
		}
	}
	e := Event{Kind: EventResetTargetSet, Pool: pool, Target: target}
	return k.configure(ctx, e, func(ctx context.Context) error { return k.opts.Store.SetAuthResetTarget(ctx, pool, target) })
}

// Credentials lists the credentials by name.
func (k *Keeper) Credentials(context.Context) ([]Credential, error) {
	var all []Credential
	for _, c := range k.view.credentials.all() {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Credential) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// AddCredential stores a credential.
func (k *Keeper) AddCredential(ctx context.Context, s CredentialSpec) (Credential, error) {
	if err := s.validate(); err != nil {
		return Credential{}, err
	}
	var m material
	if s.Source != "" {
		got, err := k.fetch(ctx, s.Source, s.Type)
		if err != nil {
			return Credential{}, err
		}
		defer got.zero()
		if _, taken := k.view.credential(s.Name); !taken {
			k.fetches.read(s.Name, k.opts.Now(), k.opts.FetchInterval)
		}
		s.Secret, s.OAuth, m.Fetched = got.secret, got.oauth, got.digest
	}
	c := Credential{Name: s.Name, Type: s.Type, TokenURL: s.TokenURL, ClientID: s.ClientID, Source: s.Source}
	m.Secret = s.Secret.Bytes()
	if s.OAuth != nil {
		m.Access, m.Refresh, c.ExpiresAt = s.OAuth.AccessToken.Bytes(), s.OAuth.RefreshToken.Bytes(), s.OAuth.ExpiresAt
	}
	m.setExtra(&c, s.ExtraHeaders)
	sealed, err := k.seal(&m)
	if err != nil {
		return Credential{}, err
	}
	e := Event{Kind: EventCredAdded, Member: c.Name, Detail: "type " + string(c.Type)}
	if c.Source != "" {
		e.Detail += ", from " + c.Source
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	err = k.store(ctx, e, func(ctx context.Context) error {
		if err := k.onlyHolder(ctx, c, &m); err != nil {
			return err
		}
		return k.opts.Store.AddCredential(ctx, CredentialRecord{Credential: c, Sealed: sealed})
	})
	if err != nil {
		return c, err
	}
	k.holders.add(k, c.Name, &m)
	k.enlist(c, true)
	return c, nil
}

// enlist shows a credential that no pool holds, or that it is gone. The lock is held.
func (k *Keeper) enlist(c Credential, there bool) {
	if k.view.enlist(c, there) {
		k.view.tends.raise()
	}
}

// onlyHolder refuses an account whose refresh token another one has or had: the one that is
// refreshed first spends it for both, and some providers end a login of which a spent token
// is shown to them.
func (k *Keeper) onlyHolder(ctx context.Context, c Credential, m *material) error {
	if c.Type != OAuth {
		return nil
	}
	if err := k.findHolders(ctx); err != nil {
		return err
	}
	if holder := k.holders.names[k.digestOf(string(m.Refresh))]; holder != "" && holder != c.Name {
		return Conflict("oauth.refresh_token: is that of %q, now or before, and good for one of them only: sign in once more for another account", holder)
	}
	return nil
}

// holders are who has or had a refresh token. Nil until somebody wants to know, for it takes to open all accounts. Guarded by
// the keeper's lock.
type holders struct {
	names  map[tokenDigest]string   // of accounts, by the digests of their refresh tokens, spent ones too
	tokens map[string][]tokenDigest // by those names
}

// findHolders makes them known. The lock is held.
func (k *Keeper) findHolders(ctx context.Context) error {
	if k.holders != nil {
		return nil
	}
	cfg, err := k.opts.Store.Config(ctx)
	if err != nil {
		return err
	}
	all := &holders{names: make(map[tokenDigest]string), tokens: make(map[string][]tokenDigest)}
	for i := range cfg.Credentials {
		r := &cfg.Credentials[i]
		if r.Credential.Type != OAuth {
			continue
		}
		m, err := k.open(r)
		if err != nil {
			return err
		}
		all.add(k, r.Credential.Name, m)
	}
	k.holders = all
	return nil
}

// add notes what an account has now.
func (h *holders) add(k *Keeper, name string, m *material) {
	if h == nil || len(m.Refresh) == 0 {
		return
	}
	h.note(k.digestOf(string(m.Refresh)), name)
	for _, d := range m.Former {
		if len(d) == len(tokenDigest{}) {
			h.note(tokenDigest(d), name)
		}
	}
}

func (h *holders) note(token tokenDigest, name string) {
	if h.names[token] != name {
		h.names[token] = name
		h.tokens[name] = append(h.tokens[name], token)
	}
}

// remove forgets an account.
func (h *holders) remove(name string) {
	if h == nil {
		return
	}
	for _, token := range h.tokens[name] {
		if h.names[token] == name {
			delete(h.names, token)
		}
	}
	delete(h.tokens, name)
}

func (m *material) setExtra(c *Credential, extra []ExtraHeader) {
	m.Extra, c.ExtraHeaders = nil, nil
	for _, h := range extra {
		if m.Extra == nil {
			m.Extra = make(map[string][]byte)
		}
		m.Extra[h.Name] = h.Value.Bytes()
		c.ExtraHeaders = append(c.ExtraHeaders, h.Name)
	}
}

// UpdateCredential replaces what is given. Requests that are under way keep what they were sent with.
func (k *Keeper) UpdateCredential(ctx context.Context, name string, ch CredentialChange) (Credential, error) {
	got, err := k.fetchFor(ctx, name, ch) // which may take a while
	if err != nil {
		return Credential{}, err
	}
	defer got.zero()
	k.mu.Lock()
	defer k.mu.Unlock()
	r, err := k.opts.Store.Credential(ctx, name)
	if err != nil {
		return Credential{}, k.view.near(err)
	}
	m, err := k.open(&r)
	if err != nil {
		return Credential{}, err
	}
	if err := k.change(m, &r.Credential, ch); err != nil {
		return Credential{}, err
	}
	another := ch.Secret != nil || ch.OAuth != nil
	if got != nil {
		if another, err = k.take(m, &r.Credential, got); err != nil {
			return Credential{}, err
		}
		k.fetches.read(name, k.opts.Now(), k.opts.FetchInterval)
	}
	if another {
		if err := k.onlyHolder(ctx, r.Credential, m); err != nil {
			return Credential{}, err
		}
	}
	if r.Sealed, err = k.seal(m); err != nil {
		return Credential{}, err
	}
	e := Event{Kind: EventCredUpdated, Member: name, Detail: ch.fields()}
	var ready func() error
	if ch.TokenURL != nil && r.Credential.Pool != "" {
		ready = k.permitted(endpointHost(r.Credential.TokenURL))
	}
	if err := k.replace(k.noting(ctx, e), r, m, another, ready); err != nil {
		return Credential{}, err
	}
	if another {
		k.refresh.forget(name)
	}
	return r.Credential, nil
}

// change applies a change to what is stored and checks the result as a whole.
func (k *Keeper) change(m *material, c *Credential, ch CredentialChange) error {
	if ch.Secret != nil {
		if c.Type != Static {
			return invalid("secret: %q is of type %s and has tokens instead", c.Name, c.Type)
		}
		if ch.Secret.Empty() {
			return invalid("secret: must not be empty")
		}
		if err := validSecret("secret", *ch.Secret); err != nil {
			return err
		}
		m.Secret = ch.Secret.Bytes()
	}
	if ch.Secret != nil || ch.OAuth != nil || ch.Source != nil {
		c.Source, c.SourceError = "", ""
		if ch.Source == nil || *ch.Source == "" {
			m.Fetched = nil
		} else {
			c.Source = *ch.Source
		}
	}
	if ch.OAuth != nil {
		if c.Type != OAuth {
			return invalid("oauth: %q is of type %s and has a secret only", c.Name, c.Type)
		}
		if err := ch.OAuth.validate(); err != nil {
			return err
		}
		k.replaceTokens(m, c, ch.OAuth)
	}
	if (ch.TokenURL != nil || ch.ClientID != nil) && c.Type != OAuth {
		return invalid("token_url: %q is of type %s and is not refreshed", c.Name, c.Type)
	}
	if ch.TokenURL != nil {
		c.TokenURL = *ch.TokenURL
	}
	if ch.ClientID != nil {
		c.ClientID = *ch.ClientID
	}
	if ch.ExtraHeaders != nil {
		m.setExtra(c, *ch.ExtraHeaders)
		return validAccount(c.TokenURL, *ch.ExtraHeaders)
	}
	return validAccount(c.TokenURL, nil)
}

// replaceTokens gives an account others.
func (k *Keeper) replaceTokens(m *material, c *Credential, t *OAuthTokens) {
	m.spend(k.digestOf(string(m.Refresh)))
	m.Access, m.Refresh, c.ExpiresAt = t.AccessToken.Bytes(), t.RefreshToken.Bytes(), t.ExpiresAt
	c.RefreshFailed = time.Time{}
}

// fields are the names of what is replaced.
func (ch CredentialChange) fields() string {
	var names []string
	for name, given := range map[string]bool{
		"secret": ch.Secret != nil, "oauth": ch.OAuth != nil, "source": ch.Source != nil, "token_url": ch.TokenURL != nil,
		"client_id": ch.ClientID != nil, "extra_headers": ch.ExtraHeaders != nil,
	} {
		if given {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// RemoveCredential forgets a credential that no pool holds.
func (k *Keeper) RemoveCredential(ctx context.Context, name string) error {
	e := Event{Kind: EventCredRemoved, Member: name}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.store(ctx, e, func(ctx context.Context) error { return k.opts.Store.RemoveCredential(ctx, name) }); err != nil {
		return err
	}
	k.holders.remove(name)
	c, _ := k.view.credential(name)
	k.enlist(c, false)
	k.fetches.forget(name) // the next one of this name is another one
	k.refresh.forget(name)
	return nil
}
