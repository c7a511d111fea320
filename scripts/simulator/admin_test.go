package simulator_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

func TestAdmin(t *testing.T) {
	t.Parallel()
	sim := start(t, simulator.Options{Credentials: []simulator.Credential{{Name: "a", Secret: "sk-a"}}})
	server := httptest.NewServer(sim.Admin())
	t.Cleanup(server.Close)
	asked := http.DefaultClient
	t.Cleanup(asked.CloseIdleConnections)
	for _, step := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/ca.pem", "", 200, "BEGIN CERTIFICATE"},
		{"GET", "/journal", "", 200, "[]"},
		{"GET", "/journal?since=x", "", 400, "since"},
		{"PUT", "/credentials/a", `{"quota":3,"window":"12s"}`, 204, ""},
		{"PUT", "/credentials/a", `{"quotas":3}`, 400, "quotas"},
		{"PUT", "/credentials/a", `{"refusal":"polite"}`, 400, "polite"},
		{"POST", "/credentials/b/spend", `{"for":"1s"}`, 404, "b"},
		{"POST", "/credentials/a/spend", `{"for":"1h"}`, 204, ""},
		{"GET", "/credentials", "", 200, `"window":"12s"`},
		{"POST", "/credentials/a/restore", "", 204, ""},
		{"DELETE", "/journal", "", 204, ""},
	} {
		r, body := send(t, asked, step.method, server.URL+step.path, nil, strings.NewReader(step.body))
		if r.StatusCode != step.status || !strings.Contains(string(body), step.says) {
			t.Errorf("%s %s: %s %s", step.method, step.path, r.Status, body)
		}
	}
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	c, err := simulator.ParseConfig([]byte(`
listen = ["127.0.0.1:0"]
[[credentials]]
name = "a"
secret = "sk-a"
quota = 2
window = "12s"
header = { "x-a" = ["1"] }
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Credentials[0]; got.Quota != 2 || time.Duration(got.Window) != 12*time.Second || got.Header["x-a"][0] != "1" {
		t.Errorf("%+v", got)
	}
	for name, text := range map[string]string{
		"unknown key": "lissen = []", "duration": "[[credentials]]\nwindow = \"soon\"", "not toml": "[[",
	} {
		if _, err := simulator.ParseConfig([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
