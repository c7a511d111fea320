package main

import (
	"crypto/x509"
	"fmt"
)

// upstreamRoots is nil for the system's roots alone.
func upstreamRoots(further []byte) (*x509.CertPool, error) {
	if len(further) == 0 {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's certificates: %w", err)
	}
	roots.AppendCertsFromPEM(further) // there is one: parseConfig has looked
	return roots, nil
}
