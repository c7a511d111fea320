package exchange

import (
	"bytes"
	"net/http"
	"strconv"

	"github.com/sluice-proxy/sluice/pool"
)

// requestSize bounds the length of the head that appendRequest makes.
func requestSize(h *head, l *pool.Lease) int {
	n := len(h.raw) + 64
	for i := range l.Inject {
		n += len(l.Inject[i].Name) + len(l.Inject[i].Value) + 4
	}
	for i := range l.Also {
		n += len(l.Also[i].Name) + len(l.Also[i].Value) + 4
	}
	return n
}

// appendRequest writes the head that goes upstream: the client's fields in their
// order and case, framing and Host with one space before the value, without those that end at this hop, those that could carry
// a credential of its own and codings that hide one, and with the lease's.
func appendRequest(dst []byte, h *head, l *pool.Lease) []byte {
	raw := h.raw
	dst = append(dst, h.methodBytes()...)
	dst = append(dst, ' ')
	dst = appendTarget(dst, originForm(h.targetBytes()), l.StripQuery)
	dst = append(dst, " HTTP/1.1\r\n"...)
	length, asked, narrowed := false, false, false
	for i := range h.fields {
		f := &h.fields[i]
		if h.hopByHop(f) || replaced(f.name(raw), l) || packsFrames(h, f, l) {
			continue
		}
		switch f.id {
		case fieldContentLength, fieldTransferEncoding, fieldHost:
			if f.id == fieldContentLength {
				if length {
					continue
				}
				length = true
			}
			// Not every server takes a tab for white space, as RFC 9110 section 5.6.3 has it:
			// what is read differently by some must not say where the request ends.
			dst = append(dst, f.name(raw)...)
			dst = append(dst, ": "...)
			dst = append(dst, f.val(raw)...)
			dst = append(dst, "\r\n"...)
		case fieldAcceptEncoding:
			if l.Echo == nil || seenThrough(f.val(raw)) {
				asked = true
				dst = append(dst, raw[f.line:f.end]...)
				continue
			}
			narrowed = true
			if codings := codingsSeenThrough(f.val(raw)); codings != "" {
				asked = true
				dst = appendField(dst, &pool.Field{Name: string(f.name(raw)), Value: []byte(codings)})
			}
		default:
			dst = append(dst, raw[f.line:f.end]...)
		}
	}
	if narrowed && !asked {
		dst = append(dst, "Accept-Encoding: identity\r\n"...)
	}
	if h.trailersOK {
		dst = append(dst, "TE: trailers\r\n"...)
	}
	switch {
	case h.upgrade && h.trailersOK:
		dst = append(dst, "Connection: Upgrade, TE\r\n"...)
	case h.upgrade:
		dst = append(dst, "Connection: Upgrade\r\n"...)
	case h.trailersOK:
		dst = append(dst, "Connection: TE\r\n"...)
	}
	for i := range l.Inject {
		dst = appendField(dst, &l.Inject[i])
	}
	for i := range l.Also {
		if !h.lists(&l.Also[i]) {
			dst = appendField(dst, &l.Also[i])
		}
	}
	return append(dst, "\r\n"...)
}

func appendField(dst []byte, f *pool.Field) []byte {
	dst = append(dst, f.Name...)
	dst = append(dst, ": "...)
	dst = append(dst, f.Value...)
	return append(dst, "\r\n"...)
}

// lists tells whether an element is in one of the lines of its field.
func (h *head) lists(also *pool.Field) bool {
	for i := range h.fields {
		f := &h.fields[i]
		if equalFold(f.name(h.raw), also.Name) && listHas(f.val(h.raw), string(also.Value)) {
			return true
		}
	}
	return false
}

// packsFrames tells whether a field offers to compress what comes behind an upgrade (RFC
// 7692): in there nobody could look for the secrets of the lease.
func packsFrames(h *head, f *field, l *pool.Lease) bool {
	return h.upgrade && l.Echo != nil && equalFold(f.name(h.raw), "sec-websocket-extensions")
}

// replaced tells whether a field of this name is removed for the lease's sake.
func replaced(name []byte, l *pool.Lease) bool {
	for _, s := range l.Strip {
		if sameField(name, s) {
			return true
		}
	}
	for i := range l.Inject {
		if sameField(name, l.Inject[i].Name) {
			return true
		}
	}
	return false
}

// sameField compares a field's name with one in lower case, as a server does that hands
// fields on as CGI's variables (RFC 3875 section 4.1.18): there x_api_key is x-api-key.
func sameField(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		switch {
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		if c != lower[i] && (c != '-' || lower[i] != '_') {
			return false
		}
	}
	return true
}

// originForm cuts scheme and authority off an absolute-form target, which was
// checked before (RFC 9112 section 3.2).
func originForm(target []byte) []byte {
	_, rest, ok := splitAbsolute(target)
	if !ok {
		return target
	}
	if len(rest) == 0 {
		return []byte("/")
	}
	return rest
}

// splitAbsolute takes "https://authority/path?query" apart.
func splitAbsolute(target []byte) (authority, rest []byte, ok bool) {
	const scheme = "https://"
	if len(target) < len(scheme) || !equalFold(target[:len(scheme)], scheme) {
		return nil, nil, false
	}
	rest = target[len(scheme):]
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		return rest, nil, true
	}
	return rest[:end], rest[end:], true
}

// appendTarget writes the target without the query parameters named in strip.
func appendTarget(dst, target []byte, strip []string) []byte {
	path, query, found := bytes.Cut(target, []byte("?"))
	if len(path) == 0 {
		dst = append(dst, '/')
	}
	dst = append(dst, path...)
	if !found {
		return dst
	}
	if len(strip) == 0 {
		dst = append(dst, '?')
		return append(dst, query...)
	}
	sep := byte('?')
	for more := true; more; {
		var param []byte
		param, query, more = bytes.Cut(query, []byte("&"))
		name, _, _ := bytes.Cut(param, []byte("="))
		if named(name, strip) {
			continue
		}
		dst = append(dst, sep)
		dst = append(dst, param...)
		sep = '&'
	}
	return dst
}

// named tells whether a parameter's name, percent-encoded or not, is in strip.
func named(name []byte, strip []string) bool {
	for _, s := range strip {
		if sameDecoded(name, s) {
			return true
		}
	}
	return false
}

func sameDecoded(name []byte, want string) bool {
	for i := 0; i < len(want); i++ {
		if len(name) == 0 {
			return false
		}
		c := name[0]
		if c == '%' && len(name) >= 3 && hexDigit(name[1]) >= 0 && hexDigit(name[2]) >= 0 {
			c = byte(hexDigit(name[1])<<4 | hexDigit(name[2]))
			name = name[2:]
		}
		if c != want[i] {
			return false
		}
		name = name[1:]
	}
	return len(name) == 0
}

// checkMethod refuses what no upstream may be asked with a credential: the answer to
// TRACE repeats the request (RFC 9110 section 9.3.8), and behind CONNECT the two
// sides may disagree on where a message ends.
func checkMethod(method string) error {
	switch method {
	case "CONNECT":
		return &rejection{501, "CONNECT is not carried"}
	case "TRACE":
		return &rejection{501, "TRACE is not carried: its answer would repeat the credential"}
	}
	return nil
}

// checkTarget holds the request's target and Host against the connection's host
// and port. denied is the authority that disagrees.
func checkTarget(h *head, host string, port uint16) (denied []byte, err error) {
	if err := checkMethod(string(h.methodBytes())); err != nil {
		return nil, err
	}
	target := h.targetBytes()
	field := h.fields[h.host].val(h.raw)
	switch {
	case target[0] == '/':
	case len(target) == 1 && target[0] == '*':
		if string(h.methodBytes()) != "OPTIONS" {
			return nil, malformed("bad request target")
		}
	default:
		authority, _, ok := splitAbsolute(target)
		if !ok {
			return nil, malformed("bad request target")
		}
		if bytes.IndexByte(authority, '@') >= 0 {
			return nil, malformed("user information in the request target")
		}
		if !sameAuthority(authority, host, port) {
			return authority, nil
		}
	}
	if !sameAuthority(field, host, port) {
		return field, nil
	}
	return nil, nil
}

// sameAuthority compares what a request names with the connection's host: case,
// one trailing dot and the port where it is the connection's do not count.
func sameAuthority(b []byte, host string, port uint16) bool {
	if i := bytes.LastIndexByte(b, ':'); i >= 0 {
		digits := b[i+1:]
		if len(digits) > 0 {
			n, ok := decimal(digits)
			if !ok || n != int64(port) || strconv.Itoa(int(n)) != string(digits) {
				return false
			}
		}
		b = b[:i]
	}
	if n := len(b); n > 0 && b[n-1] == '.' {
		b = b[:n-1]
	}
	return equalFold(b, host)
}

// sameHost holds :authority, and Host where both are there, against the
// connection's host: one connection may be shared by several (RFC 9113 section
// 9.1.1), and only the one that was verified gets the credential.
func (cl *client) sameHost(r *http.Request) (sent string, ok bool) {
	for _, h := range append([]string{r.Host}, r.Header["Host"]...) {
		if !sameAuthority([]byte(h), cl.route.Host, cl.upstream.Port) {
			return h, false
		}
	}
	return "", true
}
