package container

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// finder asks the box's containerd, and a Docker socket where there is a server if it is not nil.
func finder(t *testing.T, b *containerbox.Box, docker http.Handler) *Finder {
	t.Helper()
	o := Options{Docker: filepath.Join(t.TempDir(), "d.sock")}
	if b != nil {
		o.Containerd = b.Socket
	} else {
		o.Containerd = filepath.Join(t.TempDir(), "c.sock")
	}
	if docker != nil {
		listener, err := net.Listen("unix", o.Docker)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: docker}
		served := make(chan error)
		go func() { served <- server.Serve(listener) }()
		t.Cleanup(func() { _ = server.Close(); <-served })
	}
	f := New(o)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestFind(t *testing.T) {
	b := containerbox.New(t, containerbox.Options{})
	f := finder(t, b, nil)
	plain := b.Run("plain", containerbox.ContainerOptions{Labels: map[string]string{"app": "agent"}})
	named := b.Run("feed0123456789", containerbox.ContainerOptions{Labels: map[string]string{labelNerdctlName: "worker"}})
	b.Create("idle", containerbox.ContainerOptions{Labels: map[string]string{"app": "agent"}})
	for name, want := range map[string]*containerbox.Container{"plain": plain, "pl": plain, "worker": named, "feed": named} {
		c, err := f.Find(t.Context(), Query{Name: name, Namespace: b.Namespace})
		if err != nil || c.ID != want.ID || c.PID != want.PID() || c.Namespace != b.Namespace {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if c, err := f.Find(t.Context(), Query{Name: "idle"}); err != nil || c.PID != 0 || c.Runtime != Containerd {
		t.Errorf("one that does not run: %+v, %v", c, err)
	}
	_, err := f.Find(t.Context(), Query{Name: "nobody"})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), b.Socket) || !strings.Contains(err.Error(), b.Namespace) {
		t.Errorf("error: %v", err)
	}
	if _, err := f.Find(t.Context(), Query{Name: "plain", Namespace: "elsewhere"}); !errors.Is(err, ErrNotFound) || strings.Contains(err.Error(), b.Namespace) {
		t.Errorf("in another namespace: %v", err)
	}
	all, err := f.Select(t.Context(), Selector{"app", "agent"}, "")
	if err != nil || len(all) != 2 {
		t.Errorf("selected: %+v, %v", all, err)
	}
	plain.Stop()
	if c, err := f.Find(t.Context(), Query{Name: "plain"}); err != nil || c.PID != 0 {
		t.Errorf("stopped: %+v, %v", c, err)
	}
}

// TestFindInAPod finds what Kubernetes' labels say, in a containerd.
func TestFindInAPod(t *testing.T) {
	b := containerbox.New(t, containerbox.Options{})
	f := finder(t, b, nil)
	in := func(id, pod, namespace, name string) *containerbox.Container {
		labels := map[string]string{labelKind: "container", labelPod: pod, labelPodNamespace: namespace, labelContainer: name}
		if name == "" {
			labels[labelKind] = "sandbox"
			delete(labels, labelContainer)
		}
		return b.Run(id, containerbox.ContainerOptions{Labels: labels, Parent: "kubepods/pod-" + namespace + "-" + pod})
	}
	in("aaaa00", "web", "prod", "")
	agent := in("aaaa01", "web", "prod", "agent")
	proxy := in("aaaa02", "web", "prod", "proxy")
	lone := in("bbbb01", "batch", "prod", "worker")
	for name, want := range map[string]*containerbox.Container{
		"web/agent": agent, "agent": agent, "web/proxy": proxy, "batch": lone, "batch/worker": lone, "bbbb": lone, "aaaa02": proxy,
	} {
		c, err := f.Find(t.Context(), Query{Name: name, Namespace: b.Namespace})
		if err != nil || c.ID != want.ID || c.PID != want.PID() || c.Runtime != Kubernetes {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	in("cccc01", "web", "test", "agent")
	for name, candidates := range map[string][]string{
		"web": {"aaaa01", "aaaa02", "cccc01"}, "web/agent": {"aaaa01", "cccc01"}, "aaaa": {"aaaa01", "aaaa02"},
	} {
		_, err := f.Find(t.Context(), Query{Name: name, Namespace: b.Namespace})
		if !errors.Is(err, ErrAmbiguous) || strings.Contains(err.Error(), "aaaa00") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, id := range candidates {
			if !strings.Contains(err.Error(), id) {
				t.Errorf("%s: %v does not list %s", name, err, id)
			}
		}
	}
}

func TestNoDaemonAnswers(t *testing.T) {
	t.Parallel()
	f := finder(t, nil, nil)
	_, err := f.Find(t.Context(), Query{Name: "agent"})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), f.opts.Containerd) || !strings.Contains(err.Error(), f.opts.Docker) {
		t.Errorf("error: %v", err)
	}
}

func TestDockerAlone(t *testing.T) {
	t.Parallel()
	docker := http.NewServeMux()
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
	}
	docker.HandleFunc("GET /containers/json", answer([]map[string]any{{"Id": "c0ffee", "Names": []string{"/agent"}, "Labels": map[string]string{"app": "x"}}}))
	docker.HandleFunc("GET /containers/c0ffee/json", answer(map[string]any{"State": map[string]any{"Pid": 4711}}))
	f := finder(t, nil, docker)
	c, err := f.Find(t.Context(), Query{Name: "agent"})
	if err != nil || c.ID != "c0ffee" || c.PID != 4711 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := f.Find(t.Context(), Query{Name: "other"}); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), f.opts.Docker) {
		t.Errorf("error: %v", err)
	}
}

// TestOneOfTwoDaemonsIsAway: what the other one does not have may be there, and that is said. What it has is found.
func TestOneOfTwoDaemonsIsAway(t *testing.T) {
	t.Parallel()
	docker := http.NewServeMux()
	docker.HandleFunc("GET /containers/json", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `[{"Id":"c0ffee","Names":["/agent"]}]`)
	})
	docker.HandleFunc("GET /containers/c0ffee/json", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"State":{"Pid":4711}}`)
	})
	f := finder(t, nil, docker)
	f.opts.Timeout = time.Second
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.opts.Containerd})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false) // as of a daemon that was killed
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := f.Find(t.Context(), Query{Name: "agent"}); err != nil || c.PID != 4711 {
		t.Errorf("the other one's: %+v, %v", c, err)
	}
	_, err = f.Find(t.Context(), Query{Name: "nobody"})
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), f.opts.Containerd) || !strings.Contains(err.Error(), f.opts.Docker) {
		t.Errorf("who may be there: %v", err)
	}
}

func TestCheck(t *testing.T) {
	b := containerbox.New(t, containerbox.Options{})
	if found, err := finder(t, nil, nil).Check(t.Context()); found != "" || err != nil {
		t.Errorf("nothing here: %q, %v", found, err)
	}
	f := finder(t, b, nil)
	if found, err := f.Check(t.Context()); err != nil || !strings.Contains(found, b.Socket) {
		t.Errorf("containerd: %q, %v", found, err)
	}
	b.KillDaemon() // its socket stays
	f.opts.Timeout = time.Second
	if found, err := f.Check(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a dead one: %q, %v", found, err)
	}
	if err := CheckHold(DefaultRuntimes()); err != nil {
		t.Error(err)
	}
	if err := CheckHold([]string{"/nonexistent/runc"}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent/runc") {
		t.Errorf("no runtime: %v", err)
	}
}

// next waits for an event that is wanted, whatever comes before.
func next(t *testing.T, events <-chan Event, what string, wanted func(Event) bool) Event {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("no event: %s", what)
			}
			if wanted(e) {
				return e
			}
		case <-deadline:
			t.Fatalf("no event: %s", what)
		}
	}
}

func TestWatch(t *testing.T) {
	b := containerbox.New(t, containerbox.Options{})
	f := finder(t, b, nil)
	old := b.Run("old", containerbox.ContainerOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := f.Watch(ctx)
	listed := func(id string, pid int) func(Event) bool {
		return func(e Event) bool {
			for _, c := range e.All {
				if e.Change == Listed && c.ID == id && c.PID == pid {
					return true
				}
			}
			return false
		}
	}
	next(t, events, "old is listed", listed("old", old.PID()))
	c := b.Create("young", containerbox.ContainerOptions{Labels: map[string]string{"app": "agent"}})
	c.Prepare()
	e := next(t, events, "young is prepared", func(e Event) bool { return e.Change == Starting && e.Container.ID == "young" })
	if e.Container.PID != c.PID() || e.Container.Labels["app"] != "agent" {
		t.Errorf("prepared: %+v", e)
	}
	c.Start()
	if said, code := c.Exec(0, "true"); code != 0 {
		t.Fatal(said)
	}
	c.Stop()
	next(t, events, "young has ended", func(e Event) bool { return e.Change == Ended && e.Container.ID == "young" })
	b.KillDaemon()
	b.StartDaemon()
	next(t, events, "all are listed again", listed("old", old.PID()))
	c.Start()
	next(t, events, "young starts again", func(e Event) bool { return e.Change == Starting && e.Container.PID == c.PID() })
	c.Remove()
	next(t, events, "young is removed", func(e Event) bool { return e.Change == Removed && e.Container.ID == "young" })
	cancel()
	for range events { // it ends
	}
}

// A start is held until it is handled, and for no longer than holdAtMost if it never is.
func TestStartsAreHeld(t *testing.T) {
	b := containerbox.New(t, containerbox.Options{})
	f := New(Options{Containerd: b.Socket, Docker: filepath.Join(t.TempDir(), "d.sock"), Runtimes: DefaultRuntimes()})
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := f.Watch(ctx)
	next(t, events, "the list", func(e Event) bool { return e.Change == Listed })
	c := b.Create("held", containerbox.ContainerOptions{Args: []string{"echo", "it runs"}})
	for _, patient := range []bool{true, false} {
		started := make(chan struct{})
		began := time.Now()
		go func() {
			defer close(started)
			c.Start()
		}()
		e := next(t, events, "held", func(e Event) bool { return e.Handled != nil })
		if e.Change != Starting || e.Container.ID != "held" || e.Container.PID == 0 {
			t.Errorf("event: %+v", e)
		}
		select {
		case <-started:
			t.Error("it was started before it was handled")
		case <-time.After(100 * time.Millisecond):
		}
		if patient {
			e.Handled()
			e.Handled() // does no harm
		}
		go func() {
			for range events { // containerd's own
			}
		}()
		<-started
		if took := time.Since(began); patient && took > holdAtMost || !patient && took < holdAtMost {
			t.Errorf("it took %s, handled: %t", took, patient)
		}
		if code := c.Wait(); code != 0 {
			t.Errorf("exit status %d", code)
		}
		c.Stop()
		if patient {
			cancel()
			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
			events = f.Watch(ctx)
			next(t, events, "the list", func(e Event) bool { return e.Change == Listed })
		}
	}
	if got := c.Output(); got != "it runs\nit runs\n" {
		t.Errorf("it said %q", got)
	}
}

// TestOnlyShimsAreBelieved: anybody may execute a runtime, in a directory that looks as a shim's does. It must neither tell of a
// process as if it were a container's, nor keep others from being started.
func TestOnlyShimsAreBelieved(t *testing.T) {
	b := containerbox.New(t, containerbox.Options{})
	runtime, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	f := New(Options{Containerd: b.Socket, Docker: filepath.Join(t.TempDir(), "d.sock"), Runtimes: DefaultRuntimes()})
	defer f.Close()
	c := b.Create("agent", containerbox.ContainerOptions{Args: []string{"true"}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := f.Watch(ctx)
	next(t, events, "the list", func(e Event) bool { return e.Change == Listed })

	const user = 23456
	base, err := os.MkdirTemp("", "somebody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	folder := filepath.Join(base, taskFolder, b.Namespace)
	for _, dir := range []string{"agent", "pipe"} {
		if err := os.MkdirAll(filepath.Join(folder, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(base, 0o755), os.Chown(folder, user, user),
		os.WriteFile(filepath.Join(folder, "agent", pidFile), []byte(strconv.Itoa(os.Getpid())), 0o644),
		unix.Mkfifo(filepath.Join(folder, "pipe", pidFile), 0o644)); err != nil {
		t.Fatal(err)
	}
	limit, end := context.WithTimeout(t.Context(), 20*time.Second)
	defer end()
	cmd := exec.CommandContext(limit, "setpriv", "--reuid", strconv.Itoa(user), "--regid", strconv.Itoa(user), "--clear-groups", runtime, "--version")
	cmd.Dir = filepath.Join(folder, "agent")
	ran := make(chan error, 1)
	go func() { ran <- cmd.Run() }()
	for over := false; !over; {
		select {
		case e := <-events:
			if e.Handled != nil {
				t.Errorf("told of process %d as container %s", e.Container.PID, e.Container.ID)
				e.Handled()
			}
		case err := <-ran:
			if over = true; err != nil {
				t.Errorf("the runtime: %v", err)
			}
		}
	}
	if t.Failed() {
		return // what executes a runtime may be waiting for ever
	}
	go c.Start()
	e := next(t, events, "one that is a container", func(e Event) bool { return e.Handled != nil })
	if e.Container.ID != "agent" || e.Container.PID == os.Getpid() {
		t.Errorf("%+v", e)
	}
	e.Handled()
	cancel()
	for range events { // it ends
	}
	c.Wait()
}

func TestWatchWithoutARuntimeToHold(t *testing.T) {
	b := containerbox.New(t, containerbox.Options{})
	f := New(Options{Containerd: b.Socket, Docker: filepath.Join(t.TempDir(), "d.sock"), Runtimes: []string{"/nonexistent/runc"}})
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	events := f.Watch(ctx)
	next(t, events, "the list", func(e Event) bool { return e.Change == Listed })
	b.Run("agent", containerbox.ContainerOptions{})
	next(t, events, "it starts", func(e Event) bool { return e.Change == Starting && e.Handled == nil })
	cancel()
	for range events { // it ends
	}
}
