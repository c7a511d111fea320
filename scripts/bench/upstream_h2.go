package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// answering is a connection of the upstream that speaks HTTP/2: short answers only.
type answering struct {
	u       *upstream
	out     *bufio.Writer
	framer  *http2.Framer
	encoder *hpack.Encoder
	fields  bytes.Buffer
	window  int64  // of the connection, for what we send
	read    uint32 // since we last gave the client room
	good    map[uint32]bool
	waiting []uint32 // streams whose answer waits for the window
}

// serveH2 answers one connection's requests until it ends.
func (u *upstream) serveH2(c *tls.Conn) {
	in := bufio.NewReaderSize(c, 16<<10)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(in, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	a := &answering{u: u, out: bufio.NewWriter(c), window: 65535, good: make(map[uint32]bool)}
	a.framer = http2.NewFramer(a.out, in)
	a.framer.SetReuseFrames()
	a.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	a.encoder = hpack.NewEncoder(&a.fields)
	err := errors.Join(a.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000}),
		a.framer.WriteWindowUpdate(0, room))
	for err == nil {
		if in.Buffered() == 0 {
			if err = a.out.Flush(); err != nil {
				return
			}
		}
		var frame http2.Frame
		if frame, err = a.framer.ReadFrame(); err == nil {
			err = a.handle(frame)
		}
	}
}

func (a *answering) handle(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return a.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return a.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			a.window += int64(f.Increment)
			return a.flush()
		}
	case *http2.MetaHeadersFrame:
		good := false
		for _, field := range f.RegularFields() {
			if field.Name == "authorization" {
				good = strings.HasPrefix(field.Value, string(a.u.key))
			}
		}
		a.good[f.StreamID] = good
		if f.StreamEnded() {
			return a.answer(f.StreamID)
		}
	case *http2.DataFrame:
		if a.read += f.Length; a.read > room/2 {
			if err := a.framer.WriteWindowUpdate(0, a.read); err != nil {
				return err
			}
			a.read = 0
		}
		if f.StreamEnded() {
			return a.answer(f.StreamID)
		}
	case *http2.RSTStreamFrame:
		delete(a.good, f.StreamID)
	}
	return nil
}

func (a *answering) answer(stream uint32) error {
	a.waiting = append(a.waiting, stream)
	return a.flush()
}

// flush answers as many streams as the connection's window has room for.
func (a *answering) flush() error {
	for len(a.waiting) > 0 && a.window >= int64(len(answerBody)) {
		stream := a.waiting[0]
		a.waiting = a.waiting[1:]
		good, open := a.good[stream]
		if !open {
			continue // reset meanwhile
		}
		delete(a.good, stream)
		a.fields.Reset()
		status, body := "200", []byte(answerBody)
		if !good {
			status, body = "401", nil
		}
		err := errors.Join(a.encoder.WriteField(hpack.HeaderField{Name: ":status", Value: status}),
			a.encoder.WriteField(hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(len(body))}))
		for _, f := range answerFields {
			err = errors.Join(err, a.encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
		}
		err = errors.Join(err,
			a.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: a.fields.Bytes(), EndHeaders: true}),
			a.framer.WriteData(stream, true, body))
		if err != nil {
			return err
		}
		a.window -= int64(len(body))
	}
	return nil
}
