package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/monitor/audit"
	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/store"
	"github.com/sluice-proxy/sluice/pool/vault"
)

// offline runs a command line that needs no daemon.
func offline(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	e := env{ctx: t.Context(), stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	status = sluice(e, args)
	return out.String(), errs.String(), status
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	dir := stateWith(t, "c2stY2FuYXJ5")
	if err := os.MkdirAll(filepath.Join(dir, "ca"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca", "0001.pem"), []byte("pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	beside := t.TempDir()
	file, to := filepath.Join(beside, "backup"), filepath.Join(beside, "state")
	out, errs, status := offline(t, "", "backup", file, "--state-dir", dir, "-o", "json")
	var made backedUp
	if err := json.Unmarshal([]byte(out), &made); err != nil || status != 0 || errs != "" {
		t.Fatalf("%v: status %d: %s%s", err, status, out, errs)
	}
	if want := (backedUp{File: file, Credentials: 1}); made != want {
		t.Errorf("%+v, want %+v", made, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v: %v", info, err)
	}
	// Once more over it, through a pipe this time, and into a directory that is there and empty.
	archive, _, status := offline(t, "", "backup", "-", "--state-dir", dir)
	if status != 0 {
		t.Fatal("a backup to standard output failed")
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := offline(t, archive, "restore", "-", "--state-dir", to); out != to+"\n" || errs != "" || status != 0 {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	if err := openParts(t, to); err != nil {
		t.Errorf("a daemon does not start from it: %v", err)
	}
	if pem, err := os.ReadFile(filepath.Join(to, "ca", "0001.pem")); err != nil || string(pem) != "pem" {
		t.Errorf("the CA: %q, %v", pem, err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v: %v", info, err)
	}
	if out, errs, status := offline(t, "", "restore", file, "--state-dir", to); status != 1 || !strings.Contains(errs, "is not empty") {
		t.Errorf("over a state: status %d: %s%s", status, out, errs)
	}
	if names := entries(t, beside); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

// A state directory on another disk is reached by a link: all of it is in a backup, and one is restored to that disk.
func TestBackupOfALinkedStateDirectory(t *testing.T) {
	t.Parallel()
	here, other := t.TempDir(), t.TempDir()
	link, dir, file := filepath.Join(here, "sluice"), filepath.Join(other, "state"), filepath.Join(here, "backup")
	if err := errors.Join(os.Rename(stateWith(t, "c2stY2FuYXJ5"), dir), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := offline(t, "", "backup", file, "--state-dir", link); status != 0 {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := offline(t, "", "restore", file, "--state-dir", link); status != 0 {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	if err := openParts(t, dir); err != nil {
		t.Errorf("a daemon does not start from it: %v", err)
	}
	if to, err := os.Readlink(link); err != nil || to != dir {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	// What would be missing from a backup is said before anybody needs it.
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "ca")); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := offline(t, "", "backup", file, "--state-dir", link); status != 1 || !strings.Contains(errs, "ca is a link") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
}

// An audit log on another disk is a link in the state directory, and is copied by what it leads to.
func TestBackupOfALinkedAuditLog(t *testing.T) {
	t.Parallel()
	dir, beside := stateWith(t, "c2stY2FuYXJ5"), t.TempDir()
	file, to := filepath.Join(beside, "backup"), filepath.Join(beside, "state")
	if err := os.Symlink(t.TempDir(), auditDir(dir)); err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: auditDir(dir), KeyFile: auditKey(dir)})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if out, errs, status := offline(t, "", "backup", file, "--state-dir", dir); status != 0 {
		t.Fatalf("backup: status %d: %s%s", status, out, errs)
	}
	if out, errs, status := offline(t, "", "restore", file, "--state-dir", to); status != 0 {
		t.Fatalf("restore: status %d: %s%s", status, out, errs)
	}
}

// Whose directory a backup goes to may be an agent, which gets nothing of it, and has nothing overwritten by it.
func TestBackupBesideWhatOthersPut(t *testing.T) {
	t.Parallel()
	dir, to := stateWith(t, "c2stY2FuYXJ5"), t.TempDir()
	file, foreign := filepath.Join(to, "backup"), filepath.Join(t.TempDir(), "foreign")
	if err := os.WriteFile(foreign, []byte("foreign"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, file + ".new"} {
		if err := os.Symlink(foreign, name); err != nil {
			t.Fatal(err)
		}
	}
	if out, errs, status := offline(t, "", "backup", file, "--state-dir", dir); status != 0 {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	if info, err := os.Lstat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the backup is no file of root's: %v", err)
	}
	if text, err := os.ReadFile(foreign); err != nil || string(text) != "foreign" {
		t.Errorf("overwritten: %.20q, %v", text, err)
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range all {
		names = append(names, entry.Name())
	}
	return names
}

// packed makes an archive of files by name, and of links by name with -> in front of what they point to.
func packed(t *testing.T, files map[string]string) string {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for name, content := range files {
		header := tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if to, link := strings.CutPrefix(content, "->"); link {
			header.Typeflag, header.Linkname, header.Size, content = tar.TypeSymlink, to, 0, ""
		}
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What is no backup is refused with the reason, and nothing of it stays anywhere.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	dir := stateWith(t, "c2stY2FuYXJ5")
	whole, _, status := offline(t, "", "backup", "-", "--state-dir", dir)
	if status != 0 {
		t.Fatal("no backup")
	}
	other := stateWith(t, "c2stb3RoZXI=")
	foreign, err := os.ReadFile(identityFile(other))
	if err != nil {
		t.Fatal(err)
	}
	stolen := t.TempDir()
	if err := unpack(strings.NewReader(whole), stolen); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(identityFile(stolen), foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	var mixed bytes.Buffer
	if err := pack(stolen, &mixed); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ archive, says string }{
		"nothing":          {"", "standard input is no backup of sluice: it is empty"},
		"text":             {"once upon a time", "no backup of sluice: it is no gzipped tar archive"},
		"cut off":          {whole[:len(whole)/2], "no backup of sluice: it is cut off"},
		"last bytes":       {whole[:len(whole)-4], "no backup of sluice: it is cut off"},
		"a bit":            {whole[:len(whole)-6] + string(whole[len(whole)-6]^1) + whole[len(whole)-5:], "no backup of sluice: it is damaged"},
		"no database":      {packed(t, map[string]string{"identity": "x"}), "no database"},
		"no SQLite":        {packed(t, map[string]string{store.FileName: strings.Repeat("x", 8192)}), "damaged"},
		"outside":          {packed(t, map[string]string{"../outside": "x", store.FileName: ""}), "no backup of sluice"},
		"absolute":         {packed(t, map[string]string{"/outside": "x", store.FileName: ""}), "no backup of sluice"},
		"a link":           {packed(t, map[string]string{"ca": "->/etc"}), "neither a file nor a directory"},
		"another identity": {mixed.String(), vault.ErrIdentity.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			beside := t.TempDir()
			to := filepath.Join(beside, "state")
			out, errs, status := offline(t, tc.archive, "restore", "-", "--state-dir", to)
			if status != exitFailed || !strings.Contains(errs, tc.says) || out != "" {
				t.Errorf("status %d, want %q: %s%s", status, tc.says, out, errs)
			}
			if names := entries(t, beside); len(names) != 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
	beside := t.TempDir()
	if _, errs, status := offline(t, "", "backup", filepath.Join(beside, "b"), "--state-dir", filepath.Join(beside, "none")); status != exitFailed || !strings.Contains(errs, "there is no state") {
		t.Errorf("without a state: status %d: %s", status, errs)
	}
	if names := entries(t, beside); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

// caughtUp gives the log what it was not given yet, as the monitor does.
func caughtUp(t *testing.T, db *store.DB, log *audit.Log) error {
	t.Helper()
	seq, err := db.Cursor(t.Context(), log.Name())
	if err != nil {
		return err
	}
	events, err := db.EventsAfter(t.Context(), seq, 1000)
	if err != nil || len(events) == 0 {
		return err
	}
	return errors.Join(log.Deliver(t.Context(), events), db.SetCursor(t.Context(), log.Name(), events[len(events)-1].Seq))
}

// TestBackupOfALogThatGrows takes backups while events are stored and logged. Whatever was
// between the two at that moment, a daemon that starts from the backup logs each event once.
func TestBackupOfALogThatGrows(t *testing.T) {
	t.Parallel()
	dir := stateWith(t, "c2stY2FuYXJ5")
	db, err := store.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := audit.Open(audit.Options{Dir: auditDir(dir), KeyFile: auditKey(dir), MaxSize: 4 << 10, Keep: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := db.Cursor(t.Context(), audit.Reader); err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	stop := make(chan struct{})
	defer func() { close(stop); writing.Wait() }()
	writing.Go(func() {
		for at := time.Now(); ; at = at.Add(time.Second) {
			select {
			case <-stop:
				return
			default:
			}
			if err := db.Apply(t.Context(), pool.Change{At: at, Events: []pool.Event{{Kind: pool.EventDenied, Detail: strings.Repeat("x", 100)}}}); err != nil {
				t.Error(err)
				return
			}
			if err := caughtUp(t, db, log); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 8 {
		beside := t.TempDir()
		file, to := filepath.Join(beside, "backup"), filepath.Join(beside, "state")
		for _, args := range [][]string{{"backup", file, "--state-dir", dir}, {"restore", file, "--state-dir", to}} {
			if out, errs, status := offline(t, "", args...); status != 0 || errs != "" {
				t.Fatalf("%v: status %d: %s%s", args, status, out, errs)
			}
		}
		restored, err := openState(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		again, err := audit.Open(audit.Options{Dir: auditDir(to), KeyFile: auditKey(to), MaxSize: 4 << 10, Keep: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := caughtUp(t, restored, again); err != nil {
			t.Fatal(err)
		}
		all, err := restored.EventsAfter(t.Context(), 0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		report, err := audit.Verify(auditDir(to), auditKey(to))
		if err != nil || report.Lines != len(all) {
			t.Errorf("%d lines of %d events: %v", report.Lines, len(all), err)
		}
		if err := restored.Close(); err != nil {
			t.Fatal(err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestABackupSaysOnceWhatIsWrong packs into a file that takes nothing.
func TestABackupSaysOnceWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "identity"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := pack(dir, full); !errors.Is(err, syscall.ENOSPC) || strings.Count(err.Error(), "no space left") != 1 {
		t.Errorf("%v", err)
	}
}
