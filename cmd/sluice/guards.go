package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"github.com/sluice-proxy/sluice/intercept/guard"
	"github.com/sluice-proxy/sluice/intercept/netns"
)

// guardBackend is by what links are guarded: the best there is, or nothing.
func guardBackend(cfg config) guard.Backend {
	if cfg.Guard == guardOff {
		return guard.None
	}
	return ""
}

// guardName is by what this daemon's guard is known in network namespaces: two of them with pins of their own
// may have targets in the same one.
func guardName(pinDir string) string {
	if pinDir == defaultPinDir {
		return guard.DefaultName
	}
	sum := sha256.Sum256([]byte(pinDir))
	return guard.DefaultName + "-" + hex.EncodeToString(sum[:4])
}

// clearGuards takes what an earlier daemon left in network namespaces: of all of them, as nobody
// remembers in which ones it was. Pins are not among it.
func clearGuards(pinDir string) error {
	var failed []error
	err := netns.Each(func(ns *netns.NS) {
		if err := ns.Do(func() error { return guard.Clear(guardName(pinDir)) }); err != nil {
			failed = append(failed, err)
		}
	})
	return errors.Join(append(failed, err)...)
}
