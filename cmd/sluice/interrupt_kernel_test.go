package main

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-proxy/sluice/bpf/kerneltest"
	"github.com/sluice-proxy/sluice/intercept/cgroup"
)

// TestRunThatIsEndedBeforeItsCommand: who waits for a daemon that does not answer need not wait on, and nothing is left.
func TestRunThatIsEndedBeforeItsCommand(t *testing.T) {
	t.Parallel()
	kerneltest.Require(t)
	for _, tc := range []struct{ name, silent, asked string }{
		{"attaching", "/api/targets", "POST /api/targets"},
		{"attached", "/api/ca", "POST /api/targets, GET /api/ca, DELETE /api/targets/t1"},
	} {
		for _, by := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			t.Run(tc.name+", "+by.String(), func(t *testing.T) {
				t.Parallel()
				reached := make(chan struct{})
				d := newDouble(t, func(w http.ResponseWriter, r *http.Request) {
					switch {
					case r.URL.Path == tc.silent:
						close(reached)
						<-r.Context().Done()
					case r.Method == http.MethodDelete:
						w.WriteHeader(http.StatusNoContent)
					default:
						w.WriteHeader(http.StatusCreated)
						fmt.Fprint(w, `{"id": "t1"}`)
					}
				})
				cmd := command(t, []string{"SLUICE_SOCKET=" + d.socket}, "run", "--", "echo", "it runs")
				var out, said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				<-reached
				if err := cmd.Process.Signal(by); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				if status := cmd.ProcessState.ExitCode(); status != 128+int(by) || out.Len() > 0 || !strings.Contains(said.String(), "the command was not started") {
					t.Errorf("status %d: %s%s", status, &out, &said)
				}
				if got := d.all(); got != tc.asked {
					t.Errorf("asked %s, want %s", got, tc.asked)
				}
				mount, err := cgroup.Mount()
				if err != nil {
					t.Fatal(err)
				}
				if left, err := filepath.Glob(filepath.Join(mount, scopeParent, fmt.Sprintf("run-%d-*", cmd.Process.Pid))); err != nil || len(left) > 0 {
					t.Errorf("left: %v, %v", left, err)
				}
			})
		}
	}
}
