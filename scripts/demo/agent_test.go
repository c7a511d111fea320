package main

import "testing"

func TestParseAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		out    string
		status int // 0 = an error
		retry  string
		body   string
	}{
		"http/2":            {"HTTP/2 200 \ncontent-type: text/plain\n\nbody\nmore\n", 200, "", "body\nmore\n"},
		"http/1.1":          {"HTTP/1.1 429 Too Many Requests\nRetry-After: 9\n\n{}\n", 429, "9", "{}\n"},
		"continued":         {"HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nA: b\n\nx", 200, "", "x"},
		"no body":           {"HTTP/2 204 \n\n", 204, "", ""},
		"nothing":           {"", 0, "", ""},
		"curl's complaint":  {"curl: (7) Failed to connect\n", 0, "", ""},
		"no status":         {"HTTP/2 \n\n", 0, "", ""},
		"a word for status": {"HTTP/2 ok\n\n", 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseAnswer(test.out)
			if (err != nil) != (test.status == 0) {
				t.Fatalf("error: %v", err)
			}
			if got.Status != test.status || got.Header.Get("Retry-After") != test.retry || got.Body != test.body {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestEventsOfAStream(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		"data: {}\n\ndata: {}\n\ndata: [DONE]\n\n": true,
		"data: {}\n\ndata: {}\n\n":                 false, // cut short
	} {
		n, whole := answer{Body: body}.events()
		if n != 2 || whole != want {
			t.Errorf("%q: %d events, whole %t", body, n, whole)
		}
	}
}
