package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sluice": main, "grpc-client": grpcClient, "quic-client": quicClient, "soak-client": soakClient, "load-client": loadClient, "crowd-client": crowdClient, "exfil-client": exfilClient})
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

// quickExit keeps a command that was built with -race from waiting a second before
// it ends, for races that nobody would see any more.
const quickExit = "GORACE=atexit_sleep_ms=0"

// isolate points sluice at a socket on which nobody answers, whatever runs on
// this machine.
func isolate(e *testscript.Env) error {
	e.Setenv("SLUICE_SOCKET", filepath.Join(e.WorkDir, "sluice.sock"))
	e.Setenv("HOME", e.WorkDir)
	name, value, _ := strings.Cut(quickExit, "=")
	e.Setenv(name, value)
	return nil
}
