// Package api serves sluice's operations over HTTP on a unix socket as control/openapi.yaml says, and is the client of that.
package api
