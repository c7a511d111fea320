package exchange

import "sync/atomic"

// counters are named by cause.
type counters struct {
	connections, handshakesFailed, handshakesTimedOut, notTLS atomic.Uint64
	requests, replays, retries, exhausted, denied, rejected   atomic.Uint64
	canceled, upgrades, badGateway, gatewayTimeouts, aborted  atomic.Uint64
	headsTimedOut, notReplayable, dials, reused, starved      atomic.Uint64
	tokensAnswered, tokensRefused, tokensWithheld, echoes     atomic.Uint64
}

// Counters is what an Exchanger has done since it was made.
type Counters struct {
	Connections        uint64 // client connections whose handshake succeeded
	HandshakesFailed   uint64
	HandshakesTimedOut uint64 // among those failed
	NotTLS             uint64 // connections to a bound host that do not speak TLS, closed
	Requests           uint64
	Replays            uint64 // attempts with a further member
	Retries            uint64 // attempts repeated because a reused connection had died
	Exhausted          uint64 // requests answered 429 locally
	Denied             uint64 // requests answered 421
	Rejected           uint64 // malformed requests
	Canceled           uint64 // exchanges whose client hung up
	Upgrades           uint64
	BadGateway         uint64 // requests answered 502 locally
	GatewayTimeouts    uint64 // requests answered 504 locally
	Starved            uint64 // requests answered 503 locally, for want of a file descriptor
	Aborted            uint64 // responses cut off after they had begun
	HeadsTimedOut      uint64 // request heads that did not come in time
	NotReplayable      uint64 // refusals passed on because the request was not kept, or the answer had begun
	Dials              uint64 // upstream connections opened
	Reused             uint64 // attempts on an idle upstream connection
	TokensAnswered     uint64 // token requests answered with placeholders
	TokensRefused      uint64 // token requests not passed on
	TokensWithheld     uint64 // token answers not passed on
	Echoes             uint64 // answers in which a member's secret was found
	ReplayBytes        int64  // kept for replay at this moment
	// Added is what an exchange took from the end of the request's head to the
	// beginning of the answer's, less what the upstream took: connecting, sending,
	// waiting for its answer.
	Added Latency
}

// Snapshot reads the counters, each at its own instant.
func (x *Exchanger) Snapshot() Counters {
	c := &x.counts
	return Counters{
		Connections:        c.connections.Load(),
		HandshakesFailed:   c.handshakesFailed.Load(),
		HandshakesTimedOut: c.handshakesTimedOut.Load(),
		NotTLS:             c.notTLS.Load(),
		Requests:           c.requests.Load(),
		Replays:            c.replays.Load(),
		Retries:            c.retries.Load(),
		Exhausted:          c.exhausted.Load(),
		Denied:             c.denied.Load(),
		Rejected:           c.rejected.Load(),
		Canceled:           c.canceled.Load(),
		Upgrades:           c.upgrades.Load(),
		BadGateway:         c.badGateway.Load(),
		GatewayTimeouts:    c.gatewayTimeouts.Load(),
		Starved:            c.starved.Load(),
		Aborted:            c.aborted.Load(),
		HeadsTimedOut:      c.headsTimedOut.Load(),
		NotReplayable:      c.notReplayable.Load(),
		Dials:              c.dials.Load(),
		Reused:             c.reused.Load(),
		TokensAnswered:     c.tokensAnswered.Load(),
		TokensRefused:      c.tokensRefused.Load(),
		TokensWithheld:     c.tokensWithheld.Load(),
		Echoes:             c.echoes.Load(),
		ReplayBytes:        x.budget.Load(),
		Added:              x.added.snapshot(),
	}
}
