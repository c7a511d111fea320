package exchange

import (
	"bytes"
	"encoding/binary"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// goneMember closes a WebSocket whose member is out (RFC 6455 sections 5.5.1 and 7.4; 1012 is "service restart" in IANA's
// registry): clients connect again after that, and then it is with the next member.
const goneMember = "\x88\x37\x03\xf4" + "sluice: this member of the pool is out, connect again"

// maxMessage is how long a message may be, in bytes, and still be looked at for a refusal.
const maxMessage = 16 << 10

// messages follows what an upstream sends in a WebSocket, as far as it takes to find a message by which it refuses the
// member: text, in one frame, and not longer than such a message is.
type messages struct {
	next    int  // where the next frame begins in what is at hand, or will
	lost    bool // it is no WebSocket as it is known here: nothing more is looked at
	refuses func(text []byte) bool
}

// look returns how much of p may be passed on, and whether what follows is a refusal. Of a message that is looked at
// nothing is passed on before it is whole; no client could read it sooner.
func (m *messages) look(p []byte) (n int, refused bool) {
	for !m.lost && m.next < len(p) {
		begin, end, ok := m.frame(p)
		if m.lost {
			break
		}
		if !ok {
			return m.next, false
		}
		if p[m.next] == 0x81 && end-begin <= maxMessage { // the only frame of a text
			if end > len(p) {
				return m.next, false
			}
			if m.refuses(p[begin:end]) {
				return m.next, true
			}
		}
		m.next = end
	}
	return len(p), false
}

// frame finds where the next frame's payload begins and ends (RFC 6455 section 5.2); ok is false if its head is not whole.
func (m *messages) frame(p []byte) (begin, end int, ok bool) {
	head := p[m.next:]
	if len(head) < 2 {
		return 0, 0, false
	}
	begin, size := m.next+2, uint64(head[1]&0x7f)
	switch {
	case size == 126 && len(head) >= 4:
		begin, size = begin+2, uint64(binary.BigEndian.Uint16(head[2:]))
	case size == 127 && len(head) >= 10:
		begin, size = begin+8, binary.BigEndian.Uint64(head[2:])
	case size >= 126:
		return 0, 0, false
	}
	if m.lost = head[1]&0x80 != 0 || size > 1<<48; m.lost { // servers do not mask
		return 0, 0, false
	}
	return begin, begin + int(size), true
}

// passed says that the first n bytes at hand are passed on.
func (m *messages) passed(n int) { m.next = max(0, m.next-n) }

// refusals has a WebSocket's member judged by its messages, nil if it is none of a provider's. A refusal of the Responses
// API, where a message is a whole call, is not for the agent: it connects again. Elsewhere (Realtime) the connection holds
// a conversation that is worth more than one call, and the agent is told.
func (cl *client) refusals(a *attempts) *messages {
	if cl.route.Provider == "" || !strings.EqualFold(cl.resp.value("upgrade"), "websocket") {
		return nil
	}
	path, _, _ := bytes.Cut(cl.req.targetBytes(), []byte("?"))
	calls := bytes.HasSuffix(path, []byte("/responses"))
	return &messages{refuses: func(text []byte) bool {
		answer, refused := pool.RefusedInMessage(text)
		if !refused {
			return false
		}
		answer.At = time.Now()
		if !a.refresh(cl.ctx, answer) && !a.observe(cl.ctx, answer) {
			return false
		}
		if !calls {
			a.passRefusal()
		}
		return calls
	}}
}
