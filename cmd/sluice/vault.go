package main

import "path/filepath"

// identityFile is where the vault's identity is, unless systemd hands one over.
func identityFile(stateDir string) string { return filepath.Join(stateDir, "identity") }
