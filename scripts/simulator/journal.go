package simulator

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Entry is one request that arrived. No field holds a secret: where one stood
// in a header field, Header says whose it is instead.
type Entry struct {
	Seq        uint64      `json:"seq"`  // from 1, in order of arrival
	Time       time.Time   `json:"time"` // when its header section had arrived
	Conn       uint64      `json:"conn"` // number of the connection, from 1
	Remote     string      `json:"remote"`
	Local      string      `json:"local"`
	Proto      string      `json:"proto"` // "HTTP/1.1" or "HTTP/2.0"
	TLS        bool        `json:"tls"`
	ServerName string      `json:"server_name,omitempty"` // SNI
	Method     string      `json:"method"`
	Host       string      `json:"host"`
	Path       string      `json:"path"` // without the query
	Header     http.Header `json:"header"`
	Credential string      `json:"credential,omitempty"` // of the configured ones; "" = none of them
	Presented  []Presented `json:"presented,omitempty"`  // every credential in the request, known or not
	BodyBytes  int64       `json:"body_bytes"`           // as far as it was read
	BodySHA256 string      `json:"body_sha256,omitempty"`

	Status    int       `json:"status"`                    // 0 = not answered yet
	Refusal   string    `json:"refusal,omitempty"`         // the style, when it was refused
	Until     time.Time `json:"until,omitzero"`            // the refusal's end
	Events    int       `json:"events,omitempty"`          // of a stream, sent so far
	Sent      int64     `json:"sent"`                      // body bytes of the answer
	Ended     time.Time `json:"ended,omitzero"`            // zero = still being answered
	Cancelled bool      `json:"cancelled,omitempty"`       // the client went away before the end
	Grant     string    `json:"grant,omitempty"`           // what the token endpoint was asked for
	Frames    int       `json:"frames,omitempty"`          // WebSocket messages echoed
	Upgraded  string    `json:"upgraded,omitempty"`        // the protocol switched to
	Continued bool      `json:"expect_continue,omitempty"` // the request said Expect: 100-continue; HTTP/1.1 only
}

// Journal is what the simulator saw. It is safe for concurrent use.
type Journal struct {
	mu      sync.Mutex
	size    int
	next    uint64
	entries []*Entry // ascending Seq
	changed chan struct{}
}

func newJournal(size int) *Journal {
	return &Journal{size: size, next: 1, changed: make(chan struct{})}
}

// open adds an entry and returns its number.
func (j *Journal) open(e Entry) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Seq = j.next
	j.next++
	if j.size >= 0 {
		if len(j.entries) >= j.size && j.size > 0 {
			j.entries = slices.Delete(j.entries, 0, 1+j.size/8)
		}
		j.entries = append(j.entries, &e)
	}
	j.wake()
	return e.Seq
}

// update edits an entry, if it is still there.
func (j *Journal) update(seq uint64, edit func(*Entry)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i, found := slices.BinarySearchFunc(j.entries, seq, func(e *Entry, seq uint64) int {
		return int(int64(e.Seq) - int64(seq))
	})
	if found {
		edit(j.entries[i])
		j.wake()
	}
}

func (j *Journal) wake() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// Entries returns what was seen, oldest first.
func (j *Journal) Entries() []Entry { return j.Since(0) }

// Since returns the entries whose Seq is above seq, oldest first.
func (j *Journal) Since(seq uint64) []Entry {
	list, _ := j.since(seq)
	return list
}

func (j *Journal) since(seq uint64) ([]Entry, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := make([]Entry, 0, len(j.entries))
	for _, e := range j.entries {
		if e.Seq > seq {
			list = append(list, *e)
		}
	}
	return list, j.changed
}

// Last is the Seq of the youngest entry, 0 when there was none.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - 1
}

// Wait returns the entries after seq once ok says that they are what is waited
// for, or what there is with the context's error.
func (j *Journal) Wait(ctx context.Context, seq uint64, ok func([]Entry) bool) ([]Entry, error) {
	for {
		list, changed := j.since(seq)
		if ok(list) {
			return list, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return list, ctx.Err()
		}
	}
}

// Clear forgets the entries; numbers go on.
func (j *Journal) Clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = nil
	j.wake()
}
