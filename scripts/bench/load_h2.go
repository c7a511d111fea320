package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 is a connection that speaks HTTP/2, with one stream at a time: as lean as h1 is,
// so that the clients leave the processors to the proxies.
type h2 struct {
	conn    *tls.Conn
	out     *bufio.Writer
	framer  *http2.Framer
	encoder *hpack.Encoder
	fields  bytes.Buffer
	head    []hpack.HeaderField
	stream  uint32
	window  int64 // of the connection, for what we send
	read    int64 // since we last gave the other side room
}

// room is what the other side may send before it is given more.
const room = 1 << 20

func (c *clients) openH2(int) (exchanger, error) {
	conn, err := c.dial("h2", c.host)
	if err != nil {
		return nil, err
	}
	e := &h2{conn: conn, out: bufio.NewWriter(conn), stream: 1, window: 65535}
	e.framer = http2.NewFramer(e.out, bufio.NewReaderSize(conn, 16<<10))
	e.framer.SetReuseFrames()
	e.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	e.encoder = hpack.NewEncoder(&e.fields)
	e.head = []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: c.host},
		{Name: ":path", Value: chatPath},
		{Name: "user-agent", Value: "bench"},
		{Name: "accept", Value: "application/json"},
		{Name: "authorization", Value: "Bearer " + c.key},
		{Name: "content-type", Value: "application/json"},
		{Name: "content-length", Value: fmt.Sprint(len(chatBody))},
	}
	_, err = e.out.WriteString(http2.ClientPreface)
	if err = errors.Join(err, e.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}),
		e.framer.WriteWindowUpdate(0, room), e.out.Flush()); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return e, nil
}

func (e *h2) Close() error { return e.conn.Close() }

func (e *h2) exchange() error {
	for e.window < int64(len(chatBody)) {
		if _, err := e.next(); err != nil {
			return err
		}
	}
	e.fields.Reset()
	for _, f := range e.head {
		if err := e.encoder.WriteField(f); err != nil {
			return err
		}
	}
	err := errors.Join(
		e.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: e.stream, BlockFragment: e.fields.Bytes(), EndHeaders: true}),
		e.framer.WriteData(e.stream, true, []byte(chatBody)))
	if e.read > room/2 {
		err = errors.Join(err, e.framer.WriteWindowUpdate(0, uint32(e.read)))
		e.read = 0
	}
	if err := errors.Join(err, e.out.Flush()); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	e.window -= int64(len(chatBody))
	got := 0
	for ended := false; !ended; {
		frame, err := e.next()
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status := f.PseudoValue("status"); status != "200" {
				return fmt.Errorf("status %s", status)
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			got += len(f.Data())
			ended = f.StreamEnded()
		}
	}
	if got != len(answerBody) {
		return fmt.Errorf("an answer of %d bytes, not %d", got, len(answerBody))
	}
	e.stream += 2
	return nil
}

// next reads a frame, and does what the connection needs done.
func (e *h2) next() (http2.Frame, error) {
	frame, err := e.framer.ReadFrame()
	if err != nil {
		return nil, err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return f, errors.Join(e.framer.WriteSettingsAck(), e.out.Flush())
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return f, errors.Join(e.framer.WritePing(true, f.Data), e.out.Flush())
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			e.window += int64(f.Increment)
		}
	case *http2.DataFrame:
		e.read += int64(f.Length)
	case *http2.RSTStreamFrame:
		return nil, fmt.Errorf("stream reset: %s", f.ErrCode)
	case *http2.GoAwayFrame:
		return nil, fmt.Errorf("told to go away: %s %s", f.ErrCode, f.DebugData())
	}
	return frame, nil
}
