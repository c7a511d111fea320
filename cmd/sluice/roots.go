package main

import (
	"crypto/x509"
	"errors"
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
	if !roots.AppendCertsFromPEM(further) {
		return nil, errors.New("upstream_roots: there is no PEM certificate in the file that it names")
	}
	return roots, nil
}
