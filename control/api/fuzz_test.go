package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/intercept"
)

// nowhere is a data plane on a host without cgroups.
type nowhere struct{ *cgroups }

func (nowhere) Attach(context.Context, intercept.Request) (intercept.Target, error) {
	return intercept.Target{}, fs.ErrNotExist
}

func (nowhere) Detach(context.Context, string) error { return intercept.ErrNotFound }

// sample is a value of a schema, so that a fuzzer begins with what gets through.
func sample(s *openapi3.Schema) any {
	switch {
	case len(s.AllOf) > 0 && s.Type == nil:
		return sample(s.AllOf[0].Value)
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Type.Is("object"):
		object := make(map[string]any)
		for name, p := range s.Properties {
			object[name] = sample(p.Value)
		}
		return object
	case s.Type.Is("array"):
		return []any{sample(s.Items.Value)}
	case s.Type.Is("integer"):
		return max(1, int(deref(s.Min)))
	case s.Type.Is("boolean"):
		return false
	case s.Format == "date-time":
		return "2030-01-02T03:04:05Z"
	}
	return "a"
}

// FuzzRouter sends whatever to every route: what comes back is in the document, in
// status and in shape, and no defect answers it.
func FuzzRouter(f *testing.F) {
	doc, err := openapi3.NewLoader().LoadFromData(control.Document)
	if err != nil {
		f.Fatal(err)
	}
	c := &contract{doc: doc, seen: make(map[string]bool)}
	fill := strings.NewReplacer("{name}", "a", "{credential}", "a", "{id}", "a")
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			body := ""
			if operation.RequestBody != nil {
				text, err := json.Marshal(sample(operation.RequestBody.Value.Content.Get("application/json").Schema.Value))
				if err != nil {
					f.Fatal(err)
				}
				body = string(text)
			}
			f.Add(method, fill.Replace(path), "", body, "")
			f.Add(method, fill.Replace(path), "after=0&limit=1", body+"x", `"a"`)
			f.Add("HEAD", fill.Replace(path), "limit=5000", "", "*")
		}
	}
	f.Add("POST", "/api/credentials", "", `{"name":"a","secret":"s"}`, "")
	f.Add("POST", "/api/pools", "", `{"name":"p","members":["a"],"provider":"openai"}`, "")
	f.Add("GET", "/api/pools/%2e%2e/x", "%zz", "", "\x00")
	f.Add("OPTIONS", "//api/pools", "a=1;b=2", "", "")
	s := newServed(f, io.Discard, func(o *control.Options) { o.Targets = nowhere{new(cgroups)} })
	f.Fuzz(func(t *testing.T, method, path, query, body, ifMatch string) {
		r := &http.Request{
			Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: make(http.Header), Host: "sluice",
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(strings.NewReader(body)),
		}
		r = r.WithContext(t.Context())
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(method, " \r\n") || method == "" {
			t.Skip("no request that a server gets from net/http")
		}
		if ifMatch != "" {
			r.Header.Set("If-Match", ifMatch)
			r.Header.Set("Last-Event-ID", ifMatch)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		switch {
		case w.Code >= 300 && w.Code < 400:
			return // the mux cleans the path
		case w.Code == http.StatusNotFound && strings.Contains(w.Body.String(), "no route"), w.Code == http.StatusMethodNotAllowed:
			return
		}
		shown := *r
		if shown.Method == http.MethodHead {
			shown.Method = http.MethodGet
		}
		route := c.find(&shown)
		if route == nil {
			t.Fatalf("%s %q answers %d and is not in the document", method, path, w.Code)
		}
		if route.Operation.Responses.Status(w.Code) == nil || w.Code == http.StatusInternalServerError {
			t.Fatalf("%s %q ?%q %q: %d %s", method, path, query, body, w.Code, w.Body)
		}
		if method == http.MethodHead || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
			return
		}
		err := openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: &openapi3filter.RequestValidationInput{Request: &shown, Route: route},
			Status:                 w.Code, Header: w.Header(), Body: io.NopCloser(bytes.NewReader(w.Body.Bytes())),
			Options: &openapi3filter.Options{IncludeResponseStatus: true},
		})
		if err != nil {
			t.Fatalf("%s %q ?%q %q: %d %s: %v", method, path, query, body, w.Code, w.Body, err)
		}
	})
}
