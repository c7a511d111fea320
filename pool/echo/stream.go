package echo

// held is how many bytes must look like the beginning of a secret before they are held
// back: fewer give nothing away, and a message may well end with them.
const held = 4

// Stream finds secrets in a body as it comes, in pieces that may be parts of a larger
// buffer, with framing between them. Nothing changes its length: what is found is
// overwritten. The zero Stream is ready for [Stream.Begin].
type Stream struct {
	m     *Matcher
	begun []byte // what may be the beginning of a secret
	at    []int  // where its bytes are in the buffer; -1: passed on
	found int
}

// Begin makes it ready for a body.
func (s *Stream) Begin(m *Matcher) { *s = Stream{m: m, begun: s.begun[:0], at: s.at[:0]} }

// Next looks at the next n bytes of the body, which are in buf at off.
func (s *Stream) Next(buf []byte, off, n int) {
	p := buf[off : off+n]
	from := 0
	if len(s.begun) > 0 {
		var goesOn bool
		if from, goesOn = s.resume(buf, p, off); goesOn {
			return
		}
	}
	s.begun, s.at = s.begun[:0], s.at[:0]
	for {
		f, begun := s.m.next(p, from)
		if f.form < 0 {
			for ; begun < len(p); begun++ {
				s.begun, s.at = append(s.begun, p[begun]), append(s.at, off+begun)
			}
			return
		}
		copy(p[f.at:], s.m.forms[f.form].instead(p[f.at:f.end]))
		from = f.end
		s.found++
	}
}

// glance is how much is looked at first of what may go on with what has begun: few
// beginnings are one.
const glance = 128

// resume looks for what began before p. It returns where in p to go on; not at all if all
// of p may belong to it.
func (s *Stream) resume(buf, p []byte, off int) (from int, goesOn bool) {
	before := len(s.begun)
	if len(p) > glance {
		joint := append(s.begun, p[:glance]...)
		s.begun = joint[:before] // with more room
		f, begun := s.m.next(joint, 0)
		if f.form >= 0 && f.at >= before || f.form < 0 && begun >= before {
			return 0, false
		}
	}
	some := p[:min(len(p), s.m.longest)]
	joint := append(s.begun, some...)
	next := 0
	for {
		f, begun := s.m.next(joint, next)
		if f.form >= 0 && f.at < before {
			for i, b := range s.m.forms[f.form].instead(joint[f.at:f.end]) {
				switch j := f.at + i; {
				case j >= before:
					p[j-before] = b
				case s.at[j] >= 0:
					buf[s.at[j]] = b
				}
			}
			s.found++
			next = f.end
			continue
		}
		if f.form < 0 && begun < before {
			for i := range some {
				s.at = append(s.at, off+i)
			}
			s.begun, s.at = append(joint[:0], joint[begun:]...), append(s.at[:0], s.at[begun:]...)
			return 0, true
		}
		return max(0, next-before), false
	}
}

// Held is the offset in the buffer from which on nothing may be passed on yet; end if all
// may.
func (s *Stream) Held(end int) int {
	if len(s.begun) < held {
		return end
	}
	for _, at := range s.at {
		if at >= 0 {
			return at
		}
	}
	return end
}

// Passed says that the first n bytes of the buffer are passed on, and what is left moves to
// its beginning.
func (s *Stream) Passed(n int) {
	for i := range s.at {
		s.at[i] = max(-1, s.at[i]-n)
	}
}

// Found is how many secrets were found.
func (s *Stream) Found() int { return s.found }
