package api

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/sluice-proxy/sluice/control"
)

// TestWhatNoRouteSees: what is no request, and what no route is there for, is answered as the document says.
func TestWhatNoRouteSees(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(control.Document)
	if err != nil {
		t.Fatal(err)
	}
	s := newServed(t, io.Discard)
	for _, c := range []struct {
		name, sent string
		want       int
		error      bool // it has the shape of Error
	}{
		{"no path of the document", "GET /api/nonesuch HTTP/1.1\r\nHost: sluice\r\n\r\n", 404, true},
		{"another method", "PUT /api/pools HTTP/1.1\r\nHost: sluice\r\nContent-Length: 0\r\n\r\n", 405, true},
		{"no HTTP", "this is none\r\n\r\n", 400, false},
		{"no host", "GET /api/pools HTTP/1.1\r\n\r\n", 400, false},
		{"another expectation", "GET /api/pools HTTP/1.1\r\nHost: sluice\r\nExpect: nothing\r\n\r\n", 417, false},
		{"a long header", "GET /api/pools HTTP/1.1\r\nHost: sluice\r\nX-Long: " + strings.Repeat("x", 70<<10) + "\r\n\r\n", 431, false},
		{"another coding", "POST /api/pools HTTP/1.1\r\nHost: sluice\r\nTransfer-Encoding: gzip\r\n\r\n", 501, false},
		{"another version", "GET /api/pools HTTP/3.0\r\nHost: sluice\r\n\r\n", 505, false},
	} {
		connection, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		if _, err := io.WriteString(connection, c.sent); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		body, err := io.ReadAll(answer.Body)
		if isError := strings.Contains(string(body), `{"error":`); err != nil || answer.StatusCode != c.want || isError != c.error {
			t.Errorf("%s: %d %q, %v, want %d", c.name, answer.StatusCode, body, err, c.want)
		}
		if !strings.Contains(doc.Info.Description, strconv.Itoa(c.want)) {
			t.Errorf("%s: %d is not in the document", c.name, c.want)
		}
	}
}
