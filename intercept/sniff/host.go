package sniff

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

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
	host = s
	if strings.HasPrefix(s, "[") {
		return "", 0, ErrAddress
	}
	if h, p, ok := strings.Cut(s, ":"); ok {
		if _, err := netip.ParseAddr(s); err == nil {
			return "", 0, ErrAddress
		}
		host = h
		if p != "" { // an empty port is allowed and means the default
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 || p[0] == '+' {
				return "", 0, ErrNotHost
			}
			port = uint16(n)
		}
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", 0, ErrAddress
	}
	host = strings.TrimSuffix(host, ".")
	if simple(host) {
		return host, port, nil
	}
	name, err := idna.Lookup.ToASCII(host)
	if err != nil || name == "" || len(name) > 253 {
		return "", 0, ErrNotHost
	}
	return strings.ToLower(name), port, nil
}

// simple says whether a host is canonical already, as nearly all are: lower-case
// letters, digits, dots and hyphens, and no label that might be punycode.
func simple(host string) bool {
	if host == "" || len(host) > 253 {
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
	return label > 0 && host[len(host)-1] != '-' && !strings.Contains(host, "xn--") && !strings.Contains(host, "--")
}
