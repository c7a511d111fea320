package echo

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
)

// plainForms write a text byte for byte, each in a way of its own: as it is; for JSON, as
// encoding/json does and as PHP does; for a URL's query and its path, the digits in upper
// and in lower case (RFC 3986 section 2.1).
var plainForms = []func([]byte) []byte{
	bytes.Clone,
	func(s []byte) []byte {
		text, _ := json.Marshal(string(s)) // a string cannot fail
		return text[1 : len(text)-1]
	},
	func(s []byte) []byte {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		_ = e.Encode(string(s))
		text := bytes.TrimSpace(b.Bytes())
		return text[1 : len(text)-1]
	},
	func(s []byte) []byte {
		text, _ := json.Marshal(string(s))
		return bytes.ReplaceAll(text[1:len(text)-1], []byte("/"), []byte(`\/`))
	},
	func(s []byte) []byte { return []byte(url.QueryEscape(string(s))) },
	func(s []byte) []byte { return []byte(lowerHex(url.QueryEscape(string(s)))) },
	func(s []byte) []byte { return []byte(url.PathEscape(string(s))) },
	func(s []byte) []byte { return []byte(lowerHex(url.PathEscape(string(s)))) },
	func(s []byte) []byte { return []byte(strings.ReplaceAll(url.QueryEscape(string(s)), "+", "%20")) },
}

func lowerHex(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}

var alphabets = []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding}

// inside is what is sure of a text in base64 with shift bytes (modulo 3) before it: of its
// first and last characters some bits are its neighbours' (RFC 4648 section 4).
func inside(alphabet *base64.Encoding, text []byte, shift int) []byte {
	before := [3]int{0, 2, 3}[shift] // characters that hold bits of what is before
	coded := alphabet.EncodeToString(append(make([]byte, shift), text...))
	if (shift+len(text))%3 != 0 {
		coded = coded[:len(coded)-1]
	}
	return []byte(coded[before:])
}
