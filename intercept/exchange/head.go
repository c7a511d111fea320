package exchange

import (
	"bytes"
)

// head is one parsed message head. Its offsets point into raw, which belongs to
// the buffer it was read into and stays in place until the exchange is over.
type head struct {
	raw    []byte // start line, fields and the empty line
	fields []field

	method, target, targetEnd uint32 // request: end of the method; bounds of the target
	status                    int    // response
	lineEnd                   uint32 // start of the first field line
	minor                     uint8  // of HTTP/1.x

	length     int64 // Content-Length, -1 if there is none
	chunked    bool
	close      bool // Connection: close, or 1.0 without keep-alive
	keepAlive  bool // Connection: keep-alive
	upgrade    bool // Connection: upgrade, and Upgrade names something other than h2c
	trailersOK bool // TE: trailers
	expect     bool // Expect: 100-continue
	listed     bool // Connection names fields other than its own options
	host       int  // index of the Host field, -1
	encoding   int  // index of Content-Encoding, -1
	kind       int  // index of Content-Type, -1
}

func (h *head) methodBytes() []byte { return h.raw[:h.method] }
func (h *head) targetBytes() []byte { return h.raw[h.target:h.targetEnd] }

// contentType is nil if there is none.
func (h *head) contentType() []byte { return h.at(h.kind) }

// contentEncoding is nil if there is none.
func (h *head) contentEncoding() []byte { return h.at(h.encoding) }

func (h *head) at(i int) []byte {
	if i < 0 {
		return nil
	}
	return h.fields[i].val(h.raw)
}

// repeatable tells whether a request may be sent again by a proxy although it may
// have been carried out: by its method, or since the client says how repetitions
// are recognised.
func (h *head) repeatable() bool {
	switch string(h.methodBytes()) {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE":
		return true
	}
	for i := range h.fields {
		if f := &h.fields[i]; f.id == fieldOther {
			if name := f.name(h.raw); equalFold(name, "idempotency-key") || equalFold(name, "x-idempotency-key") {
				return true
			}
		}
	}
	return false
}

// forget leaves what is known of the message without its bytes.
func (h *head) forget() {
	h.raw, h.fields = nil, h.fields[:0]
	h.method, h.target, h.targetEnd, h.host, h.encoding, h.kind = 0, 0, 0, -1, -1, -1
}

func (h *head) reset(raw []byte) {
	*h = head{raw: raw, fields: h.fields[:0], length: -1, host: -1, encoding: -1, kind: -1}
}

// headEnd looks for the empty line in b, of which the first seen bytes were
// searched before. It returns the length of the head, 0 if it is incomplete, or
// an error as soon as a line ends without CR, which no further byte can mend.
func headEnd(b []byte, seen int) (int, error) {
	at := max(seen-3, 0)
	if i := bytes.Index(b[at:], []byte("\r\n\r\n")); i >= 0 {
		return at + i + 4, nil
	}
	for from := at; ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, nil
		}
		if i += from; i == 0 || b[i-1] != '\r' {
			return 0, malformed("line does not end with CRLF")
		}
		from = i + 1
	}
}

// parseRequest parses a complete head (RFC 9112 section 3).
func (h *head) parseRequest(raw []byte, maxFields int) error {
	h.reset(raw)
	eol := bytes.IndexByte(raw, '\n')
	if eol < 1 || raw[eol-1] != '\r' {
		return malformed("bad request line")
	}
	line := raw[:eol-1]
	m := bytes.IndexByte(line, ' ')
	last := bytes.LastIndexByte(line, ' ')
	if m < 1 || last <= m+1 || !all(line[:m], charToken) || !all(line[m+1:last], charTarget) {
		return malformed("bad request line")
	}
	h.method, h.target, h.targetEnd = uint32(m), uint32(m+1), uint32(last)
	minor, ok := version(line[last+1:])
	if !ok {
		return &rejection{505, "HTTP version is not supported on this connection"}
	}
	h.minor, h.lineEnd = minor, uint32(eol+1)
	if err := h.parseFields(maxFields); err != nil {
		return err
	}
	if h.host < 0 {
		return malformed("no Host header")
	}
	if h.chunked && h.length >= 0 {
		return malformed("both Content-Length and Transfer-Encoding")
	}
	if h.chunked && h.minor == 0 {
		return malformed("Transfer-Encoding in an HTTP/1.0 request")
	}
	return nil
}

// parseResponse parses a complete head (RFC 9112 section 4).
func (h *head) parseResponse(raw []byte, maxFields int) error {
	h.reset(raw)
	eol := bytes.IndexByte(raw, '\n')
	if eol < 1 || raw[eol-1] != '\r' {
		return malformed("bad status line")
	}
	line := raw[:eol-1]
	if len(line) < 12 || line[8] != ' ' || (len(line) > 12 && line[12] != ' ') || !all(line[12:], charValue) {
		return malformed("bad status line")
	}
	minor, ok := version(line[:8])
	n, digits := decimal(line[9:12])
	if !ok || !digits || n < 100 {
		return malformed("bad status line")
	}
	h.minor, h.status, h.lineEnd = minor, int(n), uint32(eol+1)
	if err := h.parseFields(maxFields); err != nil {
		return err
	}
	if h.chunked && (h.length >= 0 || h.minor == 0) {
		return malformed("ambiguous length of the body")
	}
	return nil
}

func version(b []byte) (minor uint8, ok bool) {
	if len(b) != 8 || string(b[:7]) != "HTTP/1." || (b[7] != '0' && b[7] != '1') {
		return 0, false
	}
	return b[7] - '0', true
}

// parseFields parses the section and draws from it what decides on framing.
func (h *head) parseFields(limit int) error {
	raw := h.raw
	var err error
	h.fields, err = parseFields(h.fields, raw, int(h.lineEnd), len(raw)-2, limit)
	if err != nil {
		return err
	}
	upgrade, protocol, h2c := false, false, false
	for i := range h.fields {
		f := &h.fields[i]
		if f.id == fieldOther {
			continue
		}
		v := f.val(raw)
		switch f.id {
		case fieldHost:
			if h.host >= 0 {
				return malformed("more than one Host header")
			}
			h.host = i
		case fieldContentLength:
			n, ok := decimal(v)
			if !ok || (h.length >= 0 && h.length != n) {
				return malformed("bad Content-Length")
			}
			h.length = n
		case fieldTransferEncoding:
			if h.chunked || !equalFold(v, "chunked") {
				return malformed("bad Transfer-Encoding")
			}
			h.chunked = true
		case fieldConnection:
			upgrade = h.connection(v) || upgrade
		case fieldTE:
			h.trailersOK = h.trailersOK || listHas(v, "trailers")
		case fieldUpgrade:
			protocol, h2c = protocol || len(v) > 0, h2c || listHas(v, "h2c")
		case fieldExpect:
			h.expect = h.expect || listHas(v, "100-continue")
		case fieldContentEncoding:
			h.encoding = i
		case fieldContentType:
			if h.kind < 0 {
				h.kind = i
			}
		}
	}
	h.upgrade = upgrade && protocol && !h2c
	h.close = h.close || (h.minor == 0 && !h.keepAlive)
	return nil
}

// connection notes the options of one Connection line.
func (h *head) connection(v []byte) (upgrade bool) {
	for len(v) > 0 {
		var item []byte
		item, v = listItem(v)
		switch {
		case equalFold(item, "close"):
			h.close = true
		case equalFold(item, "keep-alive"):
			h.keepAlive = true
		case equalFold(item, "upgrade"):
			upgrade = true
		case len(item) > 0:
			h.listed = true
		}
	}
	return upgrade
}

// hopByHop tells whether a field ends at this hop (RFC 9110 section 7.6.1).
// What frames the message or names its host is never dropped for being listed
// in Connection: that would let a client change what the upstream reads.
func (h *head) hopByHop(f *field) bool {
	switch f.id {
	case fieldConnection, fieldKeepAlive, fieldProxy, fieldTE, fieldHTTP2Settings:
		return true
	case fieldUpgrade:
		return !h.upgrade
	case fieldHost, fieldContentLength, fieldTransferEncoding:
		return false
	}
	if !h.listed {
		return false
	}
	name := f.name(h.raw)
	for i := range h.fields {
		if h.fields[i].id != fieldConnection {
			continue
		}
		for v := h.fields[i].val(h.raw); len(v) > 0; {
			var item []byte
			item, v = listItem(v)
			if equalFoldBytes(item, name) {
				return true
			}
		}
	}
	return false
}
