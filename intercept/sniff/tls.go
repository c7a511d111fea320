package sniff

// Numbers of RFC 8446 and the IANA registry of TLS extensions.
const (
	recordHandshake        = 22
	recordAlert            = 21
	recordChangeCipherSpec = 20
	handshakeHello         = 1
	recordHeader           = 5
	messageHeader          = 4
	maxRecord              = 1<<14 + 256
	extensionServerName    = 0
	extensionALPN          = 16
	extensionECH           = 0xfe0d
	nameTypeHost           = 0
)

// parseTLS reads a ClientHello, which may lie in several records (RFC 8446 section 5.1).
func parseTLS(b []byte) (Hello, error) {
	hello, err := handshake(b)
	if err != nil {
		return Hello{}, err
	}
	h := Hello{Kind: KindTLS}
	if err := h.clientHello(hello); err != nil {
		return Hello{}, err
	}
	return h, nil
}

// mayBeHello tells whether a handshake record of any version begins with a ClientHello, as far as it is there.
func mayBeHello(b []byte) bool {
	if len(b) < recordHeader {
		return true
	}
	size := int(b[3])<<8 | int(b[4])
	return size > 0 && size <= maxRecord && (len(b) == recordHeader || b[recordHeader] == handshakeHello)
}

// parseOther reads records of TLS that no client begins with. Some servers pass them over and read the ClientHello behind them: such
// a beginning is malformed, and what only looks like it for some bytes is unknown.
func parseOther(b []byte) (Hello, error) {
	size := 2 // of an alert
	if b[0] == recordChangeCipherSpec {
		size = 1
	}
	switch {
	case len(b) > 3 && b[3] != 0, len(b) > 4 && int(b[4]) != size, b[0] == recordChangeCipherSpec && len(b) > 1 && b[1] != 3:
		return Hello{Kind: KindUnknown}, nil
	case len(b) < recordHeader:
		return Hello{}, ErrIncomplete
	}
	return Hello{}, ErrMalformed
}

// handshake joins the records of the first handshake message and returns its body,
// in place if it lies in one record.
func handshake(b []byte) (body []byte, err error) {
	var joined []byte
	for need := -1; ; {
		if len(b) < recordHeader {
			return nil, ErrIncomplete
		}
		size := int(b[3])<<8 | int(b[4])
		if b[0] != recordHandshake || size == 0 || size > maxRecord {
			return nil, ErrMalformed
		}
		fragment := b[recordHeader:min(len(b), recordHeader+size)]
		if need < 0 && len(joined)+len(fragment) >= messageHeader {
			var head [messageHeader]byte
			copy(head[copy(head[:], joined):], fragment)
			if head[0] != handshakeHello {
				return nil, ErrMalformed
			}
			need = messageHeader + int(head[1])<<16 + int(head[2])<<8 + int(head[3])
			if need > MaxHello {
				return nil, ErrTooLong
			}
		}
		switch {
		case need >= 0 && joined == nil && len(fragment) >= need:
			return fragment[messageHeader:need], nil
		case need >= 0 && len(joined)+len(fragment) >= need:
			return append(joined, fragment...)[messageHeader:need], nil
		case len(fragment) < size:
			return nil, ErrIncomplete
		}
		joined = append(joined, fragment...)
		b = b[recordHeader+size:]
	}
}

// reader takes fields off the front; after the first that is missing, bad is true.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.bad = nil, true
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) number(size int) (n int) {
	for _, c := range r.take(size) {
		n = n<<8 | int(c)
	}
	return n
}

// vector takes a field with its length, of size bytes, before it.
func (r *reader) vector(size int) []byte { return r.take(r.number(size)) }

// clientHello reads RFC 8446 section 4.1.2.
func (h *Hello) clientHello(body []byte) error {
	r := reader{b: body}
	r.take(2 + 32) // legacy_version, random
	if len(r.vector(1)) > 32 {
		return ErrMalformed // legacy_session_id
	}
	suites := r.vector(2)
	compression := r.vector(1)
	if r.bad || len(suites) == 0 || len(suites)%2 != 0 || len(compression) == 0 {
		return ErrMalformed
	}
	if len(r.b) == 0 {
		return nil // TLS 1.2 allows no extensions at all
	}
	extensions := reader{b: r.vector(2)}
	if r.bad || len(r.b) != 0 {
		return ErrMalformed
	}
	var seen [2]bool
	for len(extensions.b) > 0 {
		kind := extensions.number(2)
		data := extensions.vector(2)
		if extensions.bad {
			return ErrMalformed
		}
		switch kind {
		case extensionServerName:
			// Two of them could be read differently by two readers: RFC 8446 section 4.2 forbids it.
			if seen[0] || !h.serverName(data) {
				return ErrMalformed
			}
			seen[0] = true
		case extensionALPN:
			if seen[1] || !h.protocols(data) {
				return ErrMalformed
			}
			seen[1] = true
		case extensionECH:
			h.ECH = true
		}
	}
	return nil
}

// serverName reads RFC 6066 section 3. A name of an unknown type is passed over.
func (h *Hello) serverName(data []byte) bool {
	r := reader{b: data}
	list := reader{b: r.vector(2)}
	if r.bad || len(r.b) != 0 || len(list.b) == 0 {
		return false
	}
	found := false
	for len(list.b) > 0 {
		kind := list.number(1)
		name := list.vector(2)
		if list.bad {
			return false
		}
		if kind != nameTypeHost {
			continue
		}
		if found || len(name) == 0 {
			return false
		}
		found = true
		h.ServerName = string(name)
	}
	return true
}

// protocols reads RFC 7301 section 3.1.
func (h *Hello) protocols(data []byte) bool {
	r := reader{b: data}
	list := reader{b: r.vector(2)}
	if r.bad || len(r.b) != 0 || len(list.b) == 0 {
		return false
	}
	for len(list.b) > 0 {
		name := list.vector(1)
		if list.bad || len(name) == 0 {
			return false
		}
		h.ALPN = append(h.ALPN, string(name))
	}
	return true
}
