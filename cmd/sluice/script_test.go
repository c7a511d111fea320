package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sluice": main})
}

// The scripts in testdata/script are what a person could type. Those that need
// root and a kernel are in testdata/kernel.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: os.Getenv("SLUICE_UPDATE") != "", RequireExplicitExec: true,
		Setup: isolate,
	})
}

// isolate points sluice at a socket on which nobody answers, whatever runs on
// this machine.
func isolate(e *testscript.Env) error {
	e.Setenv("SLUICE_SOCKET", filepath.Join(e.WorkDir, "sluice.sock"))
	e.Setenv("HOME", e.WorkDir)
	return nil
}
