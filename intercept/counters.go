package intercept

import "sync/atomic"

// counters count since the start; each connection that ends early is counted once, by its cause.
type counters struct {
	accepted, terminated, spliced                                     atomic.Uint64
	unsolicited, foreign, silent, slow, cutShort, overLong, malformed atomic.Uint64
	plaintext, unreachable, lost                                      atomic.Uint64
	acceptErrors, full, crowded, adopted, notAdopted                  atomic.Uint64
}

// Counters is a snapshot of what happened since the start.
type Counters struct {
	Accepted   uint64 `json:"accepted"`   // connections taken from a listener
	Terminated uint64 `json:"terminated"` // TLS ended here, because the host is bound
	Spliced    uint64 `json:"spliced"`    // passed on untouched

	Unsolicited uint64 `json:"unsolicited"` // closed: not redirected, but made to the listener
	Foreign     uint64 `json:"foreign"`     // closed: of no attached cgroup (any more)
	Silent      uint64 `json:"silent"`      // closed: neither side spoke within the idle limit
	Slow        uint64 `json:"slow"`        // closed: a beginning that took too long
	CutShort    uint64 `json:"cut_short"`   // closed: ended inside its beginning
	OverLong    uint64 `json:"over_long"`   // closed: a beginning above sniff.MaxHello
	Malformed   uint64 `json:"malformed"`   // closed: neither valid TLS nor anything else
	Plaintext   uint64 `json:"plaintext"`   // refused: plain HTTP for a bound host
	Unreachable uint64 `json:"unreachable"` // reset: the original destination could not be reached
	Lost        uint64 `json:"lost"`        // the client went away first

	AcceptErrors uint64 `json:"accept_errors"` // accept failed, for want of descriptors or memory
	Full         uint64 `json:"full"`          // accepts that had to wait for a connection to end
	Crowded      uint64 `json:"crowded"`       // reset: of a target that has most of those that can be served at a time
	Adopted      uint64 `json:"adopted"`       // namespaces that got listeners
	NotAdopted   uint64 `json:"not_adopted"`   // namespaces that could not get them
}

func (c *counters) snapshot() Counters {
	return Counters{
		Accepted: c.accepted.Load(), Terminated: c.terminated.Load(), Spliced: c.spliced.Load(),
		Unsolicited: c.unsolicited.Load(), Foreign: c.foreign.Load(), Silent: c.silent.Load(),
		Slow: c.slow.Load(), CutShort: c.cutShort.Load(), OverLong: c.overLong.Load(),
		Malformed: c.malformed.Load(), Plaintext: c.plaintext.Load(), Unreachable: c.unreachable.Load(),
		Lost: c.lost.Load(), AcceptErrors: c.acceptErrors.Load(), Full: c.full.Load(),
		Crowded: c.crowded.Load(), Adopted: c.adopted.Load(), NotAdopted: c.notAdopted.Load(),
	}
}
