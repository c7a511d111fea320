package simulator

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stream is an answer of server-sent events, each on its way before the next is made.
type stream struct {
	v    *visit
	sent int
	out  *http.ResponseController
	dead bool
}

// stream sends the header section.
func (v *visit) stream() *stream {
	h := v.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	v.WriteHeader(http.StatusOK)
	st := &stream{v: v, out: http.NewResponseController(v.answer)}
	_ = st.out.Flush()
	return st
}

// send writes one event; false = the stream is over.
func (st *stream) send(name string, data []byte) bool {
	if st.dead {
		return false
	}
	if after := st.v.verdict.Behaviour.ResetAfter; after > 0 && st.sent >= after && st.v.conn != nil {
		st.dead = true
		st.v.conn.reset()
		return false
	}
	if after := st.v.verdict.Behaviour.InStreamAfter; st.v.refusal != "" && st.sent == after {
		name, data = st.v.refusalEvent(st.v.refusal)
		defer func() { st.dead = true }()
	}
	var b bytes.Buffer
	if name != "" {
		b.WriteString("event: " + name + "\n")
	}
	b.WriteString("data: ")
	b.Write(data)
	b.WriteString("\n\n")
	if _, err := st.v.Write(b.Bytes()); err != nil {
		st.dead = true
		return false
	}
	if err := st.out.Flush(); err != nil {
		st.dead = true
		return false
	}
	st.sent++
	st.v.note(func(e *Entry) { e.Events, e.Status, e.Sent = st.sent, st.v.status, st.v.sent })
	return true
}

// object sends a JSON value whose type is also the event's name if named.
func (st *stream) object(name string, value any) bool {
	data, err := json.Marshal(value)
	if err != nil { // only values that this package made
		return false
	}
	return st.send(name, data)
}

// words are the pieces of the answer, spread over the behaviour's interval.
// The consumer stops when the client has gone.
func (v *visit) words(say func(word string) bool) bool {
	all := strings.SplitAfter(v.sim.options.Text, " ")
	n := v.verdict.Behaviour.Events
	if n == 0 {
		n = len(all)
	}
	for i := range n {
		if i > 0 && !v.pause(time.Duration(v.verdict.Behaviour.Interval)) {
			return false
		}
		if !say(all[i%len(all)]) {
			return false
		}
	}
	return true
}

// Tick is the data of one event of /stream.
type Tick struct {
	N int `json:"n"` // from 0
	// Wall is the Unix time and Mono CLOCK_MONOTONIC, both in nanoseconds, when
	// the event was about to be written: a reader on the same machine compares.
	Wall int64 `json:"wall"`
	Mono int64 `json:"mono"`
}

// Monotonic reads CLOCK_MONOTONIC, in nanoseconds: the same for every process of a machine.
func Monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano()
}

// ticks is /stream?events=N&interval=T: N events, one every T.
func ticks(v *visit) {
	n, interval := number(v, "events", 10), span(v, "interval", 0)
	st := v.stream()
	start := time.Now()
	for i := range n {
		// Measured from the start, so that lateness does not add up.
		if i > 0 && !v.pause(time.Until(start.Add(time.Duration(i)*interval))) {
			return
		}
		if !st.object("", Tick{N: i, Wall: time.Now().UnixNano(), Mono: Monotonic()}) {
			return
		}
	}
}
