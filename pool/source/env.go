package source

import (
	"context"
	"slices"

	"github.com/sluice-proxy/sluice/pool/vault"
)

// environment is variables that somebody took out of the environment.
type environment map[string]vault.Secret

func (e environment) fetch(_ context.Context, ref string, _ bool) ([]byte, error) {
	s, ok := e[ref]
	if !ok {
		return nil, refused("the daemon was started without it, or secrets.env in the configuration does not name it: " +
			"set it in the daemon's unit (EnvironmentFile=), name it there, and restart the daemon")
	}
	return slices.Clone(s.Bytes()), nil
}
