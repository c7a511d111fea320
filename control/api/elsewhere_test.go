package api

import (
	"context"
	"strings"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// elsewhere stands for where others keep secrets: file:/away does not answer.
type elsewhere struct{}

func (elsewhere) Fetch(_ context.Context, from string, _ bool) (vault.Secret, error) {
	if strings.HasPrefix(from, "file:/away") {
		return vault.Secret{}, pool.Unavailable("source %s: does not answer", from)
	}
	return vault.NewSecret([]byte("sk-canary-elsewhere")), nil
}

// sources asks for credentials that are kept elsewhere.
func (c *contract) sources(s *served) {
	c.ask(s, 201, "POST", "/api/credentials", `{"name":"elsewhere","source":"file:/there"}`)
	c.ask(s, 503, "POST", "/api/credentials", `{"name":"away","source":"file:/away"}`)
	c.ask(s, 400, "POST", "/api/credentials", `{"name":"away","source":"sk-canary"}`)
	c.ask(s, 400, "POST", "/api/credentials", `{"name":"away","source":"file:/there","secret":"s"}`)
	if all := c.ask(s, 200, "GET", "/api/credentials", ""); !strings.Contains(all, `"source":"file:/there"`) || strings.Contains(all, "canary") {
		c.Error(all)
	}
	c.ask(s, 503, "PATCH", "/api/credentials/elsewhere", `{"source":"file:/away"}`)
	if kept := c.ask(s, 200, "PATCH", "/api/credentials/elsewhere", `{"source":""}`); !strings.Contains(kept, `"source":""`) {
		c.Error(kept)
	}
	c.ask(s, 204, "DELETE", "/api/credentials/elsewhere", "")
}
