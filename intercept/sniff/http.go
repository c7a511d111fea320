package sniff

import (
	"bytes"
	"strings"
)

const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// maxMethod bounds the token before the first space: longer than any registered method.
	maxMethod = 24
)

// parseHTTP reads a request head. What cannot become one is unknown at the first
// byte that shows it.
func parseHTTP(b []byte) (Hello, error) {
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] {
		if n == len(preface) {
			return Hello{Kind: KindH2C}, nil
		}
		return Hello{}, ErrIncomplete
	}
	for i, c := range b[:min(len(b), maxMethod+1)] {
		if c == ' ' && i > 0 {
			return requestHead(b, i)
		}
		// RFC 9110 allows any token; every method in use is upper case, and being
		// strict is what tells HTTP from other protocols early.
		if c < 'A' || c > 'Z' {
			if c == '-' || c == '_' {
				continue
			}
			return Hello{Kind: KindUnknown}, nil
		}
	}
	if len(b) > maxMethod {
		return Hello{Kind: KindUnknown}, nil
	}
	return Hello{}, ErrIncomplete
}

// requestHead reads from the request target on; space is the index of the one after the method.
func requestHead(b []byte, space int) (Hello, error) {
	line, _, ended := bytes.Cut(b, []byte("\n"))
	if !ended {
		return Hello{}, ErrIncomplete
	}
	target, version, ok := strings.Cut(strings.TrimSuffix(string(line[space+1:]), "\r"), " ")
	if !ok || !strings.HasPrefix(version, "HTTP/1.") {
		return Hello{Kind: KindUnknown}, nil // another line protocol whose commands are in capitals
	}
	head, ok := wholeHead(b)
	if !ok {
		return Hello{}, ErrIncomplete
	}
	h := Hello{Kind: KindHTTP}
	method := string(b[:space])
	hosts := 0
	for field := range strings.SplitSeq(string(head[len(line)+1:]), "\n") {
		name, value, ok := strings.Cut(field, ":")
		if ok && strings.EqualFold(name, "host") {
			h.Host = strings.Trim(value, " \t\r")
			hosts++
		}
	}
	if hosts > 1 {
		return Hello{}, ErrMalformed
	}
	if authority := authorityOf(method, target); authority != "" {
		h.Host = authority
	}
	return h, nil
}

// authorityOf is the authority of a target, which overrules the field (RFC 9112 section
// 3.2.2); empty if it has none.
func authorityOf(method, target string) string {
	switch _, rest, absolute := strings.Cut(target, "://"); {
	case strings.HasPrefix(target, "/") || target == "*":
		return ""
	case method == "CONNECT":
		return target
	case absolute:
		authority := rest[:strings.IndexAny(rest+"/", "/?#")]
		return authority[strings.LastIndexByte(authority, '@')+1:]
	}
	return ""
}

// wholeHead reads up to the empty line; lines may end in LF alone (RFC 9112 section 2.2).
func wholeHead(b []byte) (head []byte, ok bool) {
	for at := 0; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return nil, false
		}
		line := b[at : at+i]
		if at += i + 1; len(line) == 0 || len(line) == 1 && line[0] == '\r' {
			return b[:at], true
		}
	}
}
