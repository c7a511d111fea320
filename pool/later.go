package pool

import (
	"bytes"
	"net/http"
)

// LaterEvents looks for a refusal in the midst of a stream of which the agent has had a part: that answer is lost, but the
// agent's next request goes to another member. Nearly always an event's first bytes tell that it is none, or that there is no
// error anywhere in it, and it is passed over. What a model writes stands within an event, with its lines escaped, and so begins none.
type LaterEvents struct {
	anywhere bool // an error may stand anywhere in an event, beside what there is of the answer
	state    laterState
	kept     []byte // of an event, until it is known to be no refusal
	line     int    // where its last line begins in that
	end      byte   // of a line: LF, or CR where the stream's first line ends with that alone
	learnt   bool   // the first line has ended
	halfEnd  bool   // or with a CR at least, which was not looked at yet: an LF may belong to it
}

// laterState is where in the stream the next byte is.
type laterState uint8

const (
	inUnknown laterState = iota // in an event of which it is not known yet what it is
	inSuspect                   // in one that may be a refusal
	inShort                     // in one that may be a refusal if it is short
	inPassed                    // in a line of one that is none
	inBetween                   // at the beginning of such a line
)

// maxLaterEvent is how much of an event is looked at: of its data as much as of an answer's body, and what comes before that.
const maxLaterEvent = MaxAnswerBody + 256

// maxLaterKept is how much memory is kept for the next event, and how long one is at most in which an error may stand anywhere.
const maxLaterKept = 4 << 10

// NewLaterEvents returns one for a stream of a provider's.
func NewLaterEvents(provider string) LaterEvents {
	return LaterEvents{anywhere: provider == "openrouter", end: '\n'} // beside "choices", or in one of them
}

// Next looks at what comes next of the stream, in whatever pieces, and returns what [RefusedInStream] does of the first
// refusal in it; what is behind that is not looked at.
func (e *LaterEvents) Next(p []byte) (status int, body []byte, refused bool) {
	if !e.learnt {
		held := e.halfEnd
		if p = e.learn(p); held && !e.halfEnd {
			if status, body, refused = e.next([]byte{'\r'}); refused {
				return status, body, true
			}
		}
	}
	return e.next(p)
}

// learn finds out from the first line what ends the lines of a stream (HTML, section 9.2.5: LF, CRLF or CR), and returns what of p can be
// looked at already: not a CR at its end, to which an LF may belong.
func (e *LaterEvents) learn(p []byte) []byte {
	i := 0
	if !e.halfEnd {
		if i = bytes.IndexAny(p, "\r\n"); i < 0 {
			return p
		}
		if p[i] == '\n' {
			e.learnt = true
			return p
		}
		i++
	}
	if i == len(p) {
		e.halfEnd = true
		return p[:max(0, i-1)]
	}
	if p[i] != '\n' {
		e.end = '\r'
	}
	e.learnt, e.halfEnd = true, false
	return p
}

func (e *LaterEvents) next(p []byte) (status int, body []byte, refused bool) {
	for len(p) > 0 {
		switch e.state {
		case inPassed:
			i := bytes.IndexByte(p, e.end)
			if i < 0 {
				return 0, nil, false
			}
			p, e.state = p[i+1:], inBetween
		case inBetween:
			switch p[0] {
			case e.end:
				p, e.state = p[1:], inUnknown
			case '\r', '\n':
				p = p[1:]
			default:
				e.state = inPassed
			}
		default:
			if len(e.kept) == 0 {
				switch kind := e.kind(p); {
				case kind == plainLine:
					e.state = inPassed
					continue
				case kind == anyLine:
					if n := e.plainEvent(p); n > 0 {
						p = p[n:]
						continue
					}
				}
			}
			n := e.keep(p)
			p = p[n:]
			if status, body, refused = e.look(); refused {
				return status, body, true
			}
		}
	}
	return 0, nil, false
}

// End says whether what came last is a refusal: some end a stream, or break it off, without the blank line behind it.
func (e *LaterEvents) End() (status int, body []byte, refused bool) {
	if e.state > inShort {
		return 0, nil, false
	}
	return e.judge()
}

// plainEvent is how long the event is that p begins with, if all of it is there and it has no error anywhere, as nearly always: 0 otherwise.
func (e *LaterEvents) plainEvent(p []byte) int {
	i := bytes.IndexByte(p, e.end) + 1
	if i == 0 {
		return 0
	}
	n := i
	if n < len(p) && p[n] == '\r' && e.end == '\n' {
		n++
	}
	if n == len(p) || p[n] != e.end || bytes.Contains(p[:i], []byte(`"error"`)) {
		return 0
	}
	return n + 1
}

// keep adds to what is kept the beginning of p, at most to the end of a line, or as much as it takes to know what that is.
func (e *LaterEvents) keep(p []byte) int {
	if e.state == inUnknown {
		p = p[:min(len(p), 64)]
	}
	if i := bytes.IndexByte(p, e.end); i >= 0 {
		p = p[:i+1]
	}
	e.kept = append(e.kept, p...)
	return len(p)
}

// look goes on after something was kept.
func (e *LaterEvents) look() (status int, body []byte, refused bool) {
	line := e.kept[e.line:]
	ended := line[len(line)-1] == e.end
	if ended && len(bytes.TrimRight(line, "\r\n")) == 0 {
		return e.judge()
	}
	if e.state == inUnknown {
		switch e.kind(line) {
		case plainLine:
			e.pass(ended)
			return 0, nil, false
		case suspectLine:
			e.state = inSuspect
		case anyLine:
			if e.state = inShort; e.anywhere {
				e.state = inSuspect
			}
		}
	}
	switch {
	case e.state == inShort && len(e.kept) > maxLaterKept:
		e.pass(ended)
	case len(e.kept) > maxLaterEvent:
		status, body, refused = e.refusal(e.kept[:maxLaterEvent]) // by what comes first in it
		e.pass(ended)
		return status, body, refused
	case ended:
		e.line = len(e.kept)
	}
	return 0, nil, false
}

// pass has the rest of the event passed over.
func (e *LaterEvents) pass(ended bool) {
	e.forget()
	if e.state = inPassed; ended {
		e.state = inBetween
	}
}

func (e *LaterEvents) forget() {
	if e.kept, e.line = e.kept[:0], 0; cap(e.kept) > maxLaterKept {
		e.kept = nil
	}
}

// judge is for an event that is there whole.
func (e *LaterEvents) judge() (status int, body []byte, refused bool) {
	event := e.kept
	e.forget()
	e.state = inUnknown
	return e.refusal(event)
}

func (e *LaterEvents) refusal(event []byte) (status int, body []byte, refused bool) {
	if !bytes.Contains(event, []byte(`"error"`)) {
		return 0, nil, false
	}
	if status, body, refused = RefusedInStream(event); !refused && e.anywhere {
		status, body, refused = RefusedInDocument(eventData(event))
	}
	// A credential with which an answer has begun is one that is accepted.
	return status, body, refused && status != http.StatusUnauthorized
}

// lineKind is what a line, or its beginning, makes of its event.
type lineKind uint8

const (
	openLine    lineKind = iota // nothing, or not enough of it is there
	plainLine                   // no refusal
	suspectLine                 // perhaps one
	anyLine                     // one only if there is an error anywhere in the event
)

// kind is the kind of the line that p begins with.
func (e *LaterEvents) kind(p []byte) lineKind {
	switch p[0] {
	case 'e':
		if name, ok := bytes.CutPrefix(p, []byte("event:")); ok {
			return nameKind(bytes.TrimPrefix(name, []byte(" ")))
		}
	case 'd':
		data, ok := bytes.CutPrefix(p, []byte("data:"))
		switch {
		case !ok:
		case e.anywhere:
			return anyLine
		default:
			return dataKind(data)
		}
	case '{', '[': // Gemini breaks off with an error as it is in an answer of its own, with nothing before it
		return dataKind(p)
	}
	return openLine
}

// nameKind is what an event's name says.
func nameKind(name []byte) lineKind {
	for _, known := range [...]string{"error", "response.failed", "response.error", "message"} {
		n := min(len(name), len(known))
		if string(name[:n]) != known[:n] {
			continue
		}
		switch {
		case n == len(name), known == "message": // which is what an event without a name is called
			return openLine
		case name[n] == '\n', name[n] == '\r':
			return suspectLine
		}
	}
	return plainLine
}

// dataKind is what the beginning of an event's data says: an error is mostly its first field, unless that is its type.
func dataKind(data []byte) lineKind {
	data = bytes.TrimLeft(data, " \t")
	data = bytes.TrimLeft(bytes.TrimPrefix(data, []byte("[")), " \t")
	switch {
	case len(data) == 0, data[0] == '\r', data[0] == '\n':
		return openLine
	case data[0] != '{':
		return plainLine
	}
	data = bytes.TrimLeft(data[1:], " \t")
	switch {
	case begins(data, `"type"`):
		if len(data) <= len(`"type"`) {
			return openLine
		}
		data = bytes.TrimLeft(data[len(`"type"`):], " \t:")
		for _, known := range [...]string{`"error"`, `"response.failed"`, `"response.error"`} {
			if begins(data, known) {
				return whole(data, known)
			}
		}
	case begins(data, `"error"`):
		return whole(data, `"error"`)
	case data[0] == '\r', data[0] == '\n': // the rest is in lines of their own
		return suspectLine
	case data[0] == '"': // fields have no order (RFC 8259 section 4)
		return anyLine
	}
	return plainLine
}

// begins says whether data begins with a word, or is the beginning of that.
func begins(data []byte, word string) bool {
	n := min(len(data), len(word))
	return string(data[:n]) == word[:n]
}

func whole(data []byte, word string) lineKind {
	if len(data) < len(word) {
		return openLine
	}
	return suspectLine
}
