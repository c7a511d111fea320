package pool

import (
	"slices"
	"time"
)

// Strategy is how a pool chooses its active member.
type Strategy string

// Failover stays with a member until it is out, then goes on to the next.
const Failover Strategy = "failover"

// MaxMembers is how many members a pool may have.
const MaxMembers = 64

// Pool is ordered credentials and the hosts whose requests they serve.
type Pool struct {
	Name            string
	Strategy        Strategy // "" is Failover
	Members         []string // names of credentials; the order counts
	Provider        string   // preset's name, "" if there is none
	Bindings        []Binding
	AuthResetTarget string // argument of the agent's own auth reset command; "": no reset
	AgentProfile    string // how the agent is reset; "": the default
	Container       string // where the agent runs; "": in whatever is attached for the pool
	// Hold is how long a request may wait for a member to come back instead of being
	// answered that there is none, at most [MaxHold]. 0: not at all.
	Hold time.Duration
}

// State says how much of a pool is left.
type State string

const (
	// StateHealthy is a pool with no member out.
	StateHealthy State = "healthy"
	// StateDegraded is a pool with some members out.
	StateDegraded State = "degraded"
	// StateExhausted is a pool with every member out.
	StateExhausted State = "exhausted"
)

// MemberState says whether a member can serve.
type MemberState string

const (
	// MemberActive serves the next request.
	MemberActive MemberState = "active"
	// MemberStandby could serve.
	MemberStandby MemberState = "standby"
	// MemberCooldown is out until an instant.
	MemberCooldown MemberState = "cooldown"
	// MemberParked is out with no instant to wait for.
	MemberParked MemberState = "parked"
)

// MemberStatus is a member as it is now.
type MemberStatus struct {
	Name   string
	State  MemberState
	Until  time.Time // end of the cooldown; zero if there is none
	Reason string    // why it is out
}

// PoolStatus is a pool as it is now.
type PoolStatus struct {
	Name            string
	Strategy        Strategy
	Provider        string
	Bindings        []Binding
	AuthResetTarget string
	AgentProfile    string
	Container       string
	Hold            time.Duration
	State           State
	Active          string    // "" if exhausted
	RecoversAt      time.Time // zero unless exhausted with an end in sight
	Members         []MemberStatus
	Agent           *AgentTokens // what an OAuth agent may hold; nil: the pool has no OAuth account
}

// validate checks and completes a pool that is to be made: whether its members
// exist is the store's to say.
func (p *Pool) validate() error {
	if err := ValidName("name", p.Name); err != nil {
		return err
	}
	if p.Strategy == "" {
		p.Strategy = Failover
	}
	if p.Strategy != Failover {
		return invalid("strategy: %q is not supported; there is only %q", p.Strategy, Failover)
	}
	if err := p.validateMembers(); err != nil {
		return err
	}
	if p.AuthResetTarget != "" {
		if err := ValidName("auth_reset_target", p.AuthResetTarget); err != nil {
			return err
		}
	}
	if p.AgentProfile != "" {
		if err := ValidName("agent_profile", p.AgentProfile); err != nil {
			return err
		}
	}
	if err := validContainer(p.Container); err != nil {
		return err
	}
	if p.Hold < 0 || p.Hold > MaxHold {
		return invalid("hold: %s is not from 0s to %s", p.Hold, MaxHold)
	}
	return p.validateBindings()
}

func (p *Pool) validateMembers() error {
	if len(p.Members) == 0 {
		return invalid("members: a pool needs at least one member")
	}
	if len(p.Members) > MaxMembers {
		return invalid("members: at most %d are allowed", MaxMembers)
	}
	for i, m := range p.Members {
		if err := ValidName("members", m); err != nil {
			return err
		}
		if slices.Contains(p.Members[:i], m) {
			return invalid("members: %q is given twice", m)
		}
	}
	return nil
}

func (p *Pool) validateBindings() error {
	p.Bindings = slices.Clone(p.Bindings)
	header := ""
	if p.Provider != "" {
		preset, err := ProviderByName(p.Provider)
		if err != nil {
			return err
		}
		if len(p.Bindings) == 0 {
			for _, host := range preset.Hosts {
				p.Bindings = append(p.Bindings, Binding{Host: host, Port: DefaultPort})
			}
		}
		header = preset.Header
	}
	if len(p.Bindings) == 0 {
		return invalid("bindings: a pool needs a provider, or a host and a header")
	}
	for i := range p.Bindings {
		b := &p.Bindings[i]
		// An empty header stands for the preset's, which may differ by the kind of credential.
		preset := b.Header == "" && header != ""
		if preset {
			b.Header = header
		} else if b.Header == "" {
			return invalid("header: a host without a provider needs one, such as 'Authorization: Bearer {token}'")
		}
		if err := b.validate(); err != nil {
			return err
		}
		for _, other := range p.Bindings[:i] {
			if other.Host == b.Host && other.Port == b.Port {
				return invalid("bindings: %s:%d is given twice", b.Host, b.Port)
			}
		}
	}
	return nil
}
