// Package monitor watches what happens to pools: it writes the edge when an
// exhausted one recovers, and hands every event to each of its readers once, in
// order, however long one of them is away.
//
// The event log is the outbox. A reader is a cursor over it, so that nothing has
// to be kept in step: what was not delivered is still there after a kill, and what
// was delivered is behind the cursor. Between the delivery and the cursor lies one
// write; who must not hear anything twice even if the power goes in that moment
// can tell by the event's seq.
package monitor
