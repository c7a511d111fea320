package sniff

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxUnicode bounds the bytes of a name that is not canonical yet: 253 characters
// of four bytes have room in it.
const maxUnicode = 1 << 10

var (
	// ErrAddress means that a host is an IP address, which no binding can name.
	ErrAddress = errors.New("an IP address, not a host name")
	// ErrNotHost means that a string names no host.
	ErrNotHost = errors.New("not a host name")
)

// CanonicalHost brings the host of an SNI, a Host field or an :authority into the
// one form in which hosts are compared: lower case, A-labels, no trailing dot. The
// port is 0 if none is given (RFC 3986 section 3.2).
//
// Errors: [ErrAddress], [ErrNotHost].
func CanonicalHost(s string) (host string, port uint16, err error) {
	if strings.HasPrefix(s, "[") {
		return "", 0, ErrAddress
	}
	host = s
	if h, p, ok := strings.Cut(s, ":"); ok {
		if strings.Contains(p, ":") {
			if _, err := netip.ParseAddr(s); err == nil {
				return "", 0, ErrAddress
			}
		}
		host = h
		if p != "" { // an empty port is allowed and means the default
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				return "", 0, ErrNotHost
			}
			port = uint16(n)
		}
	}
	if plain := strings.TrimSuffix(host, "."); isHost(plain) && !strings.Contains(plain, "--") { // that may be punycode
		host = plain
	} else if host, err = canonical(host); err != nil {
		return "", 0, err
	}
	if strings.Trim(host, "0123456789.") == "" {
		if _, err := netip.ParseAddr(host); err == nil {
			return "", 0, ErrAddress
		}
	}
	return host, port, nil
}

// canonical maps capitals, full-width letters and the like, and makes A-labels
// (RFC 5891 section 5). The package does not mind labels that are empty, too long
// or not UTF-8; they are refused here.
func canonical(host string) (string, error) {
	if len(host) > maxUnicode || !utf8.ValidString(host) {
		return "", ErrNotHost
	}
	name, err := idna.Lookup.ToASCII(host)
	if err != nil {
		return "", ErrNotHost
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".") // the dot may have been an ideographic one
	if !isHost(name) {
		return "", ErrNotHost
	}
	return name, nil
}

// isHost says whether a host is made of labels of lower-case letters, digits and
// hyphens, as nearly all are that are sent (RFC 1123 section 2.1, RFC 1035 section 2.3.4).
func isHost(host string) bool {
	if len(host) > 253 {
		return false
	}
	label := 0
	for i := range len(host) {
		switch c := host[i]; {
		case c == '.':
			if label == 0 || host[i-1] == '-' {
				return false
			}
			label = -1
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && label > 0:
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0 && host[len(host)-1] != '-'
}
