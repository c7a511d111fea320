package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// bulky is a state directory of whose backup no pipe has room for all.
func bulky(t *testing.T) (dir string) {
	t.Helper()
	dir = stateWith(t, "c2stY2FuYXJ5")
	ballast := make([]byte, 1<<20)
	_, _ = rand.Read(ballast)
	if err := os.WriteFile(filepath.Join(dir, "ballast"), ballast, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// endedBy fails unless a command that was started ends by a signal and leaves beside a directory what was there before.
func endedBy(t *testing.T, cmd *exec.Cmd, by syscall.Signal, dir string, before []string) {
	t.Helper()
	_ = cmd.Wait()
	end := cmd.ProcessState.Sys().(syscall.WaitStatus)
	// Of SIGQUIT Go makes an end of its own.
	if by == syscall.SIGQUIT && end.ExitStatus() != 2 || by != syscall.SIGQUIT && (!end.Signaled() || end.Signal() != by) {
		t.Errorf("%s: ended with %#x", by, int(end))
	}
	if left := entries(t, filepath.Dir(dir)); !slices.Equal(left, before) {
		t.Errorf("%s: there are %v, there were %v", by, left, before)
	}
}

// TestBackupThatIsEnded: what is staged is every secret there is. Nothing of it stays, whatever ends a backup.
func TestBackupThatIsEnded(t *testing.T) {
	t.Parallel()
	for _, signal := range endings {
		by := signal.(syscall.Signal)
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			dir := bulky(t)
			cmd := command(t, nil, "backup", "-", "--state-dir", dir)
			before := entries(t, filepath.Dir(dir))
			packing(t, cmd)
			if err := cmd.Process.Signal(by); err != nil {
				t.Fatal(err)
			}
			endedBy(t, cmd, by, dir, before)
		})
	}
}

// Of a reader that ends the backup is told, and it tells.
func TestBackupThatNobodyReads(t *testing.T) {
	t.Parallel()
	dir := bulky(t)
	cmd := command(t, nil, "backup", "-", "--state-dir", dir)
	before := entries(t, filepath.Dir(dir))
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := packing(t, cmd).Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != exitFailed || !strings.Contains(said.String(), "broken pipe") {
		t.Errorf("status %d: %s", status, &said)
	}
	if left := entries(t, filepath.Dir(dir)); !slices.Equal(left, before) {
		t.Errorf("there are %v, there were %v", left, before)
	}
}

// packing starts a backup to its standard output, and reads of that until it is staged.
func packing(t *testing.T, cmd *exec.Cmd) io.ReadCloser {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return out
}

// A file that is not whole goes, too; the one that it was to take the place of stays.
func TestBackupIntoAFileThatIsEnded(t *testing.T) {
	t.Parallel()
	dir, to := bulky(t), t.TempDir()
	file := filepath.Join(to, "backup")
	if err := os.WriteFile(file, []byte("the one before"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 32<<20) // to pack
	_, _ = rand.Read(long)
	if err := os.WriteFile(filepath.Join(dir, "long"), long, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, nil, "backup", file, "--state-dir", dir)
	before := entries(t, filepath.Dir(dir))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(commandLimit); len(entries(t, to)) == 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is packed")
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	endedBy(t, cmd, syscall.SIGTERM, dir, before)
	if text, err := os.ReadFile(file); err != nil || string(text) != "the one before" || len(entries(t, to)) != 1 {
		t.Errorf("%v: %.20q, among %v", err, text, entries(t, to))
	}
}

func TestRestoreThatIsEnded(t *testing.T) {
	t.Parallel()
	archive, _, status := offline(t, "", "backup", "-", "--state-dir", bulky(t))
	if status != exitDone {
		t.Fatal("no backup")
	}
	dir := filepath.Join(t.TempDir(), "state")
	cmd := command(t, nil, "restore", "-", "--state-dir", dir)
	before := entries(t, filepath.Dir(dir))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, archive[:len(archive)/2]); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(commandLimit); len(entries(t, filepath.Dir(dir))) == len(before); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is unpacked")
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	endedBy(t, cmd, syscall.SIGINT, dir, before)
}

// TestImportThatIsEnded: all credentials of a file are stored or none, Ctrl-C or not.
func TestImportThatIsEnded(t *testing.T) {
	t.Parallel()
	var keys []map[string]string
	for i := range 20 {
		keys = append(keys, map[string]string{"label": fmt.Sprint(i), "access_token": "sk-canary"})
	}
	text, err := json.Marshal(map[string]any{"credential_pool": map[string]any{"openai": keys}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	started := make(chan *os.Process, 1)
	var asked atomic.Int32
	d := newDouble(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		n := asked.Add(1)
		if n == 2 {
			if err := (<-started).Signal(syscall.SIGINT); err != nil {
				t.Error(err)
			}
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"name": "made-%d"}`, n)
	})
	cmd := command(t, []string{"SLUICE_SOCKET=" + d.socket}, "cred", "import", "hermes", file)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started <- cmd.Process
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != exitFailed || out.Len() > 0 || !strings.Contains(said.String(), "interrupted; nothing was stored") {
		t.Errorf("status %d: %s%s", status, &out, &said)
	}
	all := d.all()
	made := strings.Count(all, "POST /api/credentials")
	for i := range made {
		if !strings.Contains(all, fmt.Sprintf("DELETE /api/credentials/made-%d", i+1)) {
			t.Errorf("made-%d stays", i+1)
		}
	}
	if made < 2 || made == len(keys) {
		t.Errorf("stored before it ended: %d", made)
	}
}

// TestImportUnderNohup: what is deaf to a signal is not ended by it.
func TestImportUnderNohup(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(file, []byte(`{"credential_pool":{"x":[{"label":"a","access_token":"sk-a"},{"label":"b","access_token":"sk-b"}]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	started := make(chan *os.Process, 1)
	var hungUp sync.Once
	d := newDouble(t, func(w http.ResponseWriter, _ *http.Request) {
		hungUp.Do(func() {
			if err := (<-started).Signal(syscall.SIGHUP); err != nil {
				t.Error(err)
			}
			time.Sleep(100 * time.Millisecond) // one that heard it would know by then
		})
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"name": "made"}`)
	})
	cmd := command(t, []string{"SLUICE_SOCKET=" + d.socket}, "cred", "import", "hermes", file)
	cmd.Args = slices.Insert(cmd.Args, 2, "--ignore-signal=HUP") // behind env's --default-signal
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started <- cmd.Process
	if err := cmd.Wait(); err != nil || d.all() != "POST /api/credentials, POST /api/credentials" {
		t.Errorf("%v: %s(asked %s)", err, &said, d.all())
	}
}
