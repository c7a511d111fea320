package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluice-proxy/sluice/monitor/audit"
	"github.com/sluice-proxy/sluice/pool"
)

// The scripts in testdata/audit check logs that a daemon could have left.
func TestAuditScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/audit", RequireExplicitExec: true, Setup: isolate,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"auditlog": auditLogCommand, "tamper": tamperCommand,
		},
	})
}

// auditLogCommand makes a state directory with a log of so many events, and a
// config.toml that names it: auditlog DIR N.
func auditLogCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: auditlog DIR N")
	}
	state := ts.MkAbs(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	l, err := audit.Open(audit.Options{Dir: filepath.Join(state, "audit"), KeyFile: filepath.Join(state, "audit.key")})
	ts.Check(err)
	start := time.Date(2026, 11, 23, 22, 10, 0, 0, time.UTC)
	for seq := 1; seq <= n; seq++ {
		ts.Check(l.Deliver(context.Background(), []pool.Event{{
			Seq: int64(seq), Time: start.Add(time.Duration(seq) * time.Second), Kind: pool.EventFailover, Pool: "main", Member: "a",
		}}))
	}
	ts.Check(l.Close())
	ts.Check(os.WriteFile(ts.MkAbs("config.toml"), []byte("state_dir = "+strconv.Quote(state)+"\n"), 0o600))
}

// tamperCommand changes one letter in a line: tamper FILE LINE.
func tamperCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tamper FILE LINE")
	}
	file := ts.MkAbs(args[0])
	data, err := os.ReadFile(file)
	ts.Check(err)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	all := bytes.SplitAfter(data, []byte("\n"))
	all[n-1] = bytes.Replace(all[n-1], []byte(`"pool":"main"`), []byte(`"pool":"mine"`), 1)
	ts.Check(os.WriteFile(file, bytes.Join(all, nil), 0o600))
}

func TestAuditLine(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 22, 10, 0, 0, time.FixedZone("", 3600))
	for want, report := range map[string]audit.Report{
		"0 lines in 0 files hold": {},
		"1 line in 1 file holds: 2026-11-23T21:10:00Z to 2026-11-23T21:10:00Z": {Lines: 1, Files: 1, FirstTime: at, LastTime: at},
		"412 lines in 2 files hold: 2026-11-23T21:10:00Z to 2026-11-23T22:10:00Z; 17 bytes of a line that is not finished follow": {
			Lines: 412, Files: 2, FirstTime: at, LastTime: at.Add(time.Hour), Unfinished: 17,
		},
	} {
		if got := auditLine(report); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
