package pool

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// DefaultPort is the port of a binding that names none.
const DefaultPort = 443

// tokenMark stands for the secret in a header template.
const tokenMark = "{token}"

// Binding is a host and port whose requests a pool serves, and what they carry.
type Binding struct {
	Host   string // lower case, A-label, without a trailing dot
	Port   uint16
	Header string // `Name: value with {token}`
}

// ParseHostPort reads H or H:PORT as a person writes it.
func ParseHostPort(s string) (host string, port uint16, err error) {
	host, port = s, DefaultPort
	if h, p, ok := strings.Cut(s, ":"); ok && !strings.Contains(p, ":") && !strings.HasPrefix(p, "//") { // a URL is no host: that is said later
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", 0, invalid("host: %q: the port must be a number from 1 to 65535", s)
		}
		host, port = h, uint16(n)
	}
	return host, port, nil
}

// validHost returns the canonical form of a host name that TLS clients send as SNI.
func validHost(host string) (string, error) {
	switch {
	case host == "":
		return "", invalid("host: must not be empty")
	case strings.Contains(host, "://"):
		return "", invalid("host: %q is a URL: give the host name alone", host)
	case strings.Contains(host, "*"):
		return "", invalid("host: %q: wildcards are not supported, because a credential goes to exactly the hosts that are named", host)
	case strings.ContainsAny(host, "/@ \t"):
		return "", invalid("host: %q is not a host name", host)
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return "", invalid("host: %s is an IP address: a connection is recognised by the name in its TLS handshake, and there is none for an address", host)
	}
	name, err := idna.Lookup.ToASCII(strings.TrimSuffix(host, "."))
	if err != nil || name == "" || len(name) > 253 {
		return "", invalid("host: %q is not a host name", host)
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return "", invalid("host: %q is not a host name: a label has 1 to 63 characters", host)
		}
	}
	if _, err := strconv.Atoi(labels[len(labels)-1]); err == nil {
		return "", invalid("host: %q is not a host name: the last label is a number", host)
	}
	return strings.ToLower(name), nil
}

// unsendable are fields that frame the message, belong to one connection or name
// the host: a credential in one of them would break the request.
var unsendable = map[string]bool{
	"connection": true, "content-length": true, "expect": true, "host": true, "keep-alive": true,
	"proxy-connection": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
}

func validFieldName(field, name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return invalid("%s: %q is not the name of a header field", field, name)
	}
	if unsendable[strings.ToLower(name)] {
		return invalid("%s: %s frames or routes the message and cannot carry a credential", field, name)
	}
	return nil
}

// template is a parsed header template: before + secret + after.
type template struct {
	name          string // lower case
	before, after string
}

// parseTemplate reads `Name: value with {token}`. Its errors do not quote the value, where
// people put the secret itself.
func parseTemplate(s string) (template, error) {
	name, value, ok := strings.Cut(s, ":")
	if !ok {
		return template{}, invalid("header: must have the form 'Name: value with %s'", tokenMark)
	}
	if err := validFieldName("header", name); err != nil {
		return template{}, err
	}
	value = strings.Trim(value, " \t")
	if !httpguts.ValidHeaderFieldValue(value) {
		return template{}, invalid("header: the value of %s has a line break or another control character", name)
	}
	switch strings.Count(value, tokenMark) {
	case 0:
		return template{}, invalid("header: the value of %s has no %s: the place where the credential goes", name, tokenMark)
	case 1:
	default:
		return template{}, invalid("header: the value of %s has %s more than once", name, tokenMark)
	}
	before, after, _ := strings.Cut(value, tokenMark)
	return template{name: strings.ToLower(name), before: before, after: after}, nil
}

// render is the field with the secret in its place.
func (t template) render(secret []byte) Field {
	v := make([]byte, 0, len(t.before)+len(secret)+len(t.after))
	v = append(append(append(v, t.before...), secret...), t.after...)
	return Field{Name: t.name, Value: vault.Keep(v)}
}

func (b *Binding) validate() error {
	host, err := validHost(b.Host)
	if err != nil {
		return err
	}
	b.Host = host
	if b.Port == 0 {
		b.Port = DefaultPort
	}
	_, err = parseTemplate(b.Header)
	return err
}
