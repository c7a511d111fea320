package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluice-proxy/sluice/control"
)

// unreachedServer is a server whose operations nothing may get to.
func unreachedServer(tb testing.TB) *Server {
	tb.Helper()
	s, err := New(Options{
		Operations: control.New(control.Options{}),
		Metrics:    http.NotFoundHandler(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func send(s http.Handler, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestInvalidRequests(t *testing.T) {
	t.Parallel()
	s := unreachedServer(t)
	long := strings.Repeat("n", 65)
	const canary = "canary-71ac"
	for _, tc := range []struct{ name, method, path, body, field string }{
		{"no body", "POST", "/api/pools", "", "body"},
		{"only space", "POST", "/api/pools", "  \n", "body"},
		{"no json", "POST", "/api/pools", "nonsense", "body"},
		{"cut short", "POST", "/api/pools", `{"name":"a"`, "body"},
		{"array for an object", "POST", "/api/pools", `[]`, "body"},
		{"null", "POST", "/api/pools", `null`, "body"},
		{"trailing garbage", "POST", "/api/pools", `{"name":"a","members":["x"]} x`, "body"},
		{"second value", "POST", "/api/pools", `{"name":"a","members":["x"]}{}`, "body"},
		{"key twice", "POST", "/api/pools", `{"name":"a","name":"b","members":["x"]}`, "name"},
		{"key twice further in", "POST", "/api/pools", `{"name":"a","members":["x"],"bindings":[{"host":"h","host":"i"}]}`, "bindings.host"},
		{"too deep", "POST", "/api/pools", strings.Repeat("[", 100000), "body"},
		{"too large", "POST", "/api/pools", `{"name":"` + strings.Repeat("a", MaxBody) + `"}`, "body"},
		{"unknown field", "POST", "/api/pools", `{"name":"a","members":["x"],"colour":"red"}`, "colour: "},
		{"missing field", "POST", "/api/pools", `{"name":"a"}`, "members"},
		{"missing name", "POST", "/api/pools", `{"members":["x"]}`, "name"},
		{"wrong type", "POST", "/api/pools", `{"name":5,"members":["x"]}`, "name"},
		{"null field", "POST", "/api/pools", `{"name":null,"members":["x"]}`, "name"},
		{"wrong type further in", "POST", "/api/pools", `{"name":"a","members":["x",5]}`, "members.1"},
		{"empty name", "POST", "/api/pools", `{"name":"","members":["x"]}`, "name"},
		{"over-long name", "POST", "/api/pools", `{"name":"` + long + `","members":["x"]}`, "name"},
		{"no member", "POST", "/api/pools", `{"name":"a","members":[]}`, "members"},
		{"unknown strategy", "POST", "/api/pools", `{"name":"a","members":["x"],"strategy":"random"}`, "strategy"},
		{"port 0", "POST", "/api/pools", `{"name":"a","members":["x"],"bindings":[{"host":"h","port":0}]}`, "port"},
		{"port too high", "POST", "/api/pools", `{"name":"a","members":["x"],"bindings":[{"host":"h","port":65536}]}`, "port"},
		{"port no integer", "POST", "/api/pools", `{"name":"a","members":["x"],"bindings":[{"host":"h","port":44.3}]}`, "port"},
		{"unknown field in a binding", "POST", "/api/pools", `{"name":"a","members":["x"],"bindings":[{"host":"h","proto":"tcp"}]}`, "bindings.0.proto: "},
		{"over-long name in the path", "GET", "/api/pools/" + long, "", "name"},
		{"over-long member in the path", "POST", "/api/pools/a/members/" + long, "", "credential"},
		{"body where none is", "POST", "/api/pools/a/rotate", `{"x":1}`, "body"},
		{"body for GET", "GET", "/api/pools", `{}`, "body"},
		{"unknown field of clear", "POST", "/api/pools/a/clear", `{"members":"x"}`, "members"},
		{"wrong secret", "POST", "/api/credentials", `{"name":"a","secret":["` + canary + `"]}`, "secret"},
		{"empty secret", "POST", "/api/credentials", `{"name":"a","secret":""}`, "secret"},
		{"unknown credential type", "POST", "/api/credentials", `{"name":"a","type":"magic","secret":"` + canary + `"}`, "type"},
		{"refresh token missing", "POST", "/api/credentials", `{"name":"a","type":"oauth","oauth":{"access_token":"` + canary + `","expires_at":"2030-01-02T03:04:05Z"}}`, "refresh_token"},
		{"expiry no time", "POST", "/api/credentials", `{"name":"a","type":"oauth","oauth":{"access_token":"` + canary + `","refresh_token":"r","expires_at":"tomorrow"}}`, "expires_at"},
		{"nothing to change", "PATCH", "/api/credentials/a", `{}`, "body"},
		{"rename", "PATCH", "/api/credentials/a", `{"name":"b"}`, "name"},
		{"header without value", "POST", "/api/credentials", `{"name":"a","secret":"` + canary + `","extra_headers":[{"name":"x"}]}`, "value"},
		{"pid 0", "POST", "/api/targets", `{"pid":0}`, "pid"},
		{"pid as text", "POST", "/api/targets", `{"pid":"5"}`, "pid"},
		{"neither cgroup nor pid", "POST", "/api/targets", `{}`, "cgroup"},
		{"both cgroup and pid", "POST", "/api/targets", `{"cgroup":"/x","pid":5}`, "pid"},
		{"transient without cgroup", "POST", "/api/targets", `{"pid":5,"transient":true}`, "cgroup"},
		{"limit 0", "GET", "/api/events?limit=0", "", "limit"},
		{"limit no number", "GET", "/api/events?limit=x", "", "limit: value must be an integer"},
		{"limit twice", "GET", "/api/events?limit=1&limit=2", "", "limit: "},
		{"seq too high", "GET", "/api/events?after=99999999999999999999", "", "after: number is too large"},
		{"limit too high", "GET", "/api/events?limit=1001", "", "limit"},
		{"negative seq", "GET", "/api/events?after=-1", "", "after"},
		{"unknown query", "GET", "/api/events?since=1", "", "since"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := send(s, tc.method, tc.path, tc.body)
			var answer Error
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
				t.Fatalf("%d %q: %v", w.Code, w.Body, err)
			}
			if w.Code != http.StatusBadRequest || answer.Error.Code != ErrorErrorCodeInvalid {
				t.Errorf("%d %s, want 400 invalid", w.Code, answer.Error.Code)
			}
			if !strings.Contains(answer.Error.Message, tc.field) {
				t.Errorf("message %q does not name %s", answer.Error.Message, tc.field)
			}
			if strings.Contains(w.Body.String(), canary) || w.Body.Len() > 1000 {
				t.Errorf("the message tells what was sent: %.200q", w.Body)
			}
		})
	}
}

func TestNoRoute(t *testing.T) {
	t.Parallel()
	s := unreachedServer(t)
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/api", 404, ""},
		{"GET", "/api/pools/", 404, ""},
		{"GET", "/api/nothing", 404, ""},
		{"GET", "//api/pools", 404, ""},
		{"GET", "/api/../api/pools", 404, ""},
		{"DELETE", "/api/targets/.", 404, ""},
		{"DELETE", "/api/pools/a/members/..", 404, ""},
		{"PUT", "/api/pools", 405, "GET, HEAD, POST"},
		{"POST", "/api/status", 405, "GET, HEAD"},
	} {
		w := send(s, tc.method, tc.path, "")
		var answer Error
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Error.Message == "" {
			t.Errorf("%s %s: %q is no error in the usual shape", tc.method, tc.path, w.Body)
		}
		if w.Code != tc.status || w.Header().Get("Allow") != tc.allow {
			t.Errorf("%s %s: %d, Allow %q; want %d, %q", tc.method, tc.path, w.Code, w.Header().Get("Allow"), tc.status, tc.allow)
		}
	}
}

// Whatever is sent where a body of the wrong kind is certain, nothing but 400
// comes back, and it does not repeat what was sent.
func FuzzBody(f *testing.F) {
	s := unreachedServer(f)
	for _, seed := range []string{``, `{}`, `[]`, `{"name":1}`, `{"member":"x","member":"y"}`, `{"a":{"b":[{"c":null}]}}`, "\xff", `{"name":"\ud800"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		// "canary" is no field of any schema, so that no body is a good one.
		wrapped := fmt.Appendf(nil, `{"canary":%s}`, body)
		for _, route := range []struct{ method, path string }{
			{"POST", "/api/pools"},
			{"POST", "/api/credentials"},
			{"PATCH", "/api/credentials/a"},
			{"POST", "/api/targets"},
			{"POST", "/api/pools/a/clear"},
		} {
			r := httptest.NewRequest(route.method, route.path, bytes.NewReader(wrapped))
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			var answer Error
			if w.Code != http.StatusBadRequest || json.Unmarshal(w.Body.Bytes(), &answer) != nil || answer.Error.Message == "" {
				t.Fatalf("%s %s with %q: %d %q", route.method, route.path, wrapped, w.Code, w.Body)
			}
		}
	})
}
