package simulator

import (
	"io"
	"net/http"

	"github.com/coder/websocket"
)

// webSocket echoes messages until the client closes. The subprotocol "echo" is
// agreed to when it is offered.
func webSocket(v *visit) {
	c, err := websocket.Accept(v.answer, v.r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // any origin: a test is its own
		Subprotocols:       []string{"echo"},
		CompressionMode:    websocket.CompressionContextTakeover,
	})
	if err != nil { // Accept has answered
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(maxBody)
	v.status = http.StatusSwitchingProtocols
	v.note(func(e *Entry) { e.Upgraded, e.Status = "websocket", http.StatusSwitchingProtocols })
	for n := 1; ; n++ {
		kind, from, err := c.Reader(v.r.Context())
		if err != nil {
			return // closed, in order or not
		}
		to, err := c.Writer(v.r.Context(), kind)
		if err != nil {
			return
		}
		if _, err = io.Copy(to, from); err != nil {
			return
		}
		if err := to.Close(); err != nil {
			return
		}
		v.note(func(e *Entry) { e.Frames = n })
	}
}
