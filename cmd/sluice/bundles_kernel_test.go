package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/pavlo-v-chernykh/keystore-go/v4"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/scripts/containerbox"
	"github.com/sluice-proxy/sluice/scripts/simulator"
)

// imageRoot is a certificate that an image has, for all that it matters here.
var imageRoot = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("a root of the image's")})

// cacerts is a key store as Java brings one.
func cacerts(t *testing.T) []byte {
	t.Helper()
	store := keystore.New()
	entry := keystore.TrustedCertificateEntry{Certificate: keystore.Certificate{Type: "X.509", Content: []byte("a root of the image's")}}
	if err := store.SetTrustedCertificateEntry("root", entry); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := store.Store(&out, []byte("changeit")); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// inside is a file as a container sees it.
func inside(t *testing.T, c *containerbox.Container, name string) []byte {
	t.Helper()
	text, code := c.Exec(0, "cat", name)
	if code != 0 {
		t.Fatalf("%s: %s", name, text)
	}
	return []byte(text)
}

// coversIn are how many of a container's mounts are sluice's.
func coversIn(t *testing.T, pid int) int {
	t.Helper()
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(mounts), "/sluice-ca-")
}

// listening is how many TCP sockets listen in a container's network namespace (proc_pid_net(5)).
func listening(t *testing.T, c *containerbox.Container) int {
	t.Helper()
	n := 0
	for _, family := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", c.PID(), family))
		if err != nil {
			t.Fatal(err)
		}
		n += strings.Count(string(text), " 0A 00000000:") // TCP_LISTEN
	}
	return n
}

// everyBundle is an image that has the bundles of all distributions, as files and as links.
func everyBundle(t *testing.T) (files map[string]containerbox.File, bundles []string) {
	t.Helper()
	text, store := containerbox.File{Body: imageRoot}, containerbox.File{Body: cacerts(t)}
	files = map[string]containerbox.File{
		"/etc/ssl/certs/ca-certificates.crt":                                                        text,
		"/etc/ssl/cert.pem":                                                                         {Link: "certs/ca-certificates.crt"},
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem":                                         text,
		"/etc/pki/tls/certs/ca-bundle.crt":                                                          {Link: "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"},
		"/var/lib/ca-certificates/ca-bundle.pem":                                                    text,
		"/etc/ssl/ca-bundle.pem":                                                                    {Link: "../../var/lib/ca-certificates/ca-bundle.pem"},
		"/usr/local/lib/python3.12/site-packages/certifi/cacert.pem":                                text,
		"/app/.venv/lib/python3.13/site-packages/certifi/cacert.pem":                                text,
		"/etc/ssl/certs/java/cacerts":                                                               store,
		"/usr/lib/jvm/java-17/lib/security/cacerts":                                                 {Link: "/etc/ssl/certs/java/cacerts"},
		"/opt/java/openjdk/lib/security/cacerts":                                                    store,
		"/opt/conda/ssl/cacert.pem":                                                                 text,
		"/opt/conda/ssl/cert.pem":                                                                   {Link: "cacert.pem"},
		"/root/.local/share/uv/tools/agent/lib/python3.12/site-packages/certifi/cacert.pem":         text,
		"/home/agent/.local/share/pipx/venvs/agent/lib/python3.11/site-packages/certifi/cacert.pem": text,
	}
	for name := range files {
		bundles = append(bundles, name)
	}
	return files, bundles
}

// TestEveryBundleOfAnImage: each bundle has the CA and what it had, in containers of every kind; once, after
// each start, and no longer than the container is attached.
func TestEveryBundleOfAnImage(t *testing.T) {
	t.Parallel()
	files, bundles := everyBundle(t)
	w := newWardOf(t, files, []simulator.Credential{{Name: "first", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	ca, _ := pem.Decode([]byte(w.sluice("", "ca", "show")))
	root, _ := pem.Decode(imageRoot)
	kinds := map[string]containerbox.ContainerOptions{
		"host":     {},
		"netns":    {NetNS: w.pair.Agent, ReadOnly: true},
		"native":   {Snapshotter: "native", ReadOnly: true},
		"deaf":     {Args: containerbox.Deaf(), Snapshotter: "native", NetNS: w.pair.Agent},
		"ordinary": {UID: containerbox.Agent},
	}
	for name, o := range kinds {
		c := w.box.Run(name, o)
		before := mountsIn(t, c)
		id := strings.TrimSpace(w.sluice("", "attach", "--container", name, "--namespace", w.box.Namespace))
		for round := range 3 {
			if round > 0 {
				c.Restart()
				w.until("it is attached again", func() bool { return w.state() == "attached" && coversIn(t, c.PID()) > 0 })
			}
			for _, bundle := range bundles {
				text := inside(t, c, bundle)
				for who, block := range map[string]*pem.Block{"the CA": ca, "its own root": root} {
					if !bytes.Contains(text, block.Bytes) && !bytes.Contains(text, pem.EncodeToMemory(block)) {
						t.Errorf("%s, start %d: %s has not %s", name, round, bundle, who)
					}
				}
			}
			if now := mountsIn(t, c); now != before+10 { // the links lead to some of them
				t.Errorf("%s, start %d: %d mounts, and %d before", name, round, now, before)
			}
		}
		w.sluice("", "detach", id)
		if now := mountsIn(t, c); now != before {
			t.Errorf("%s: %d mounts are left, there were %d", name, now, before)
		}
		c.Remove()
	}
}

// TestAFailedAttachLeavesNothing of what it did first: programs, listeners, filters on links, covers and the row.
func TestAFailedAttachLeavesNothing(t *testing.T) {
	needs(t, "bpftool", "nft", "tc", "ss")
	files, _ := everyBundle(t)
	w := newWardOf(t, files, []simulator.Credential{{Name: "first", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	fill, empty := w.stateOnSmallDisk()
	c := w.box.Run("agent", containerbox.ContainerOptions{NetNS: w.pair.Agent})
	count := func() census {
		t.Helper()
		all := census{
			"mounts": fmt.Sprint(mountsIn(t, c)), "programs": fmt.Sprint(programsOn(t, c.Cgroup())),
			"targets": fmt.Sprint(len(w.targets())), "sockets that listen": fmt.Sprint(listening(t, c)),
		}
		all.network(t, w.pair.Agent)
		return all
	}
	before := count()
	same := func(when string) {
		t.Helper()
		now := count()
		if more, less := now.left(before), before.left(now); len(more)+len(less) != 0 {
			t.Errorf("%s: %q is there now, and %q was", when, more, less)
		}
	}
	for name, broken := range map[string]struct {
		by   func() (mend func())
		says string
	}{
		"a full disk":       {func() func() { fill(); return empty }, "is full"}, // when everything is there but the row
		"another's program": {func() func() { return exclusive(t, filepath.Dir(c.Cgroup())) }, "exclusive program"},
	} {
		mend := broken.by()
		if said, err := w.try("attach", "--container", "agent"); err == nil || !strings.Contains(said, broken.says) {
			t.Errorf("%s: %v, %s", name, err, said)
		}
		same(name)
		mend()
		w.daemon.kill()
		w.start() // with what is remembered
		same(name + ", the next daemon")
	}
	w.sluice("", "attach", "--container", "agent")
	after := strings.Join(count().left(before), "\n")
	for _, what := range []string{"mounts", "programs", "targets", "sockets that listen", "ss in "} {
		if !strings.Contains(after, what) {
			t.Errorf("attached, it does not count the %s: %s", what, after)
		}
	}
	w.sluice("", "detach", "--all")
	same("detached")
}

// exclusive puts a program on a cgroup that allows none below it, and returns what takes it off.
func exclusive(t *testing.T, cgroup string) (remove func()) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "somebodys", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect}); err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect}); err != nil {
			t.Error(err)
		}
		_ = dir.Close()
		_ = program.Close()
	})
}

// TestImagesThatAreOdd: what is in a bundle's place may be anything. The daemon opens nothing but files, follows
// nothing out of the container, and covers what is sound.
func TestImagesThatAreOdd(t *testing.T) {
	t.Parallel()
	w := newWardOf(t, map[string]containerbox.File{
		"/etc/ssl/ca-bundle.pem":                                     {Link: "ca-bundle.pem"}, // to itself
		"/etc/pki/tls/certs/ca-bundle.crt":                           {Link: "/nonexistent"},
		"/usr/local/lib/python3.12/site-packages/certifi/cacert.pem": {Link: "/proc/1/root/etc/passwd"},
		"/etc/ssl/certs/java/cacerts":                                {Body: []byte("\xfe\xed\xfe\xed\x00\x00\x00\x02\xff\xff\xff\xff")},
		"/opt/venv/lib/python3.12/site-packages/certifi/cacert.pem":  {Body: imageRoot, Mode: 0o600, UID: containerbox.Agent},
	}, []simulator.Credential{{Name: "first", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	c := w.box.Run("odd", containerbox.ContainerOptions{Args: []string{"sh", "-c", `
		mkdir -p /etc/ssl/cert.pem /etc/pki/ca-trust/extracted/pem && mknod /etc/ssl/certs/ca-certificates.crt c 1 5 &&
		mkfifo /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem && echo ready; trap 'exit 0' TERM; while :; do sleep 1 & wait; done`}})
	w.until("it is ready", func() bool { return c.Output() == "ready\n" })
	passwd := inside(t, c, "/etc/passwd")
	id := strings.TrimSpace(w.sluice("", "attach", "--container", "odd"))
	const sound = "/opt/venv/lib/python3.12/site-packages/certifi/cacert.pem"
	if text := inside(t, c, sound); !bytes.HasPrefix(text, imageRoot) || bytes.Equal(text, imageRoot) {
		t.Errorf("the sound one: %s", text)
	}
	if said, _ := c.Exec(0, "stat", "-c", "%a %u", sound); said != "600 10000\n" {
		t.Errorf("the sound one: %s", said)
	}
	if now := inside(t, c, "/etc/passwd"); !bytes.HasPrefix(now, passwd) {
		t.Errorf("/etc/passwd: %s", now)
	}
	for _, odd := range []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/certs/java/cacerts"} {
		if !strings.Contains(w.daemon.log.String(), odd+" is not covered") {
			t.Errorf("the log does not tell of %s", odd)
		}
	}
	w.sluice("", "detach", id)
	if n := coversIn(t, c.PID()); n != 0 {
		t.Errorf("%d covers are left", n)
	}
	for _, name := range []string{"", "*", "../odd", "odd\n", strings.Repeat("o", 5000), "-odd", "od/d"} {
		said, err := w.try("attach", "--container="+name)
		if err == nil || strings.Count(said, "\n") != 1 {
			t.Errorf("%.20q: %v, %.200q", name, err, said)
		}
	}
	if got := w.targets(); len(got) != 0 {
		t.Errorf("left: %+v", got)
	}
}

// TestContainersThatCannotKeepStill are started, stopped and removed while they are attached and detached.
func TestContainersThatCannotKeepStill(t *testing.T) {
	t.Parallel()
	files, _ := everyBundle(t)
	w := newWardOf(t, files, []simulator.Credential{{Name: "first", Secret: openaiFirst}})
	w.sluice(openaiFirst, "cred", "add", "a1")
	w.sluice("", "pool", "create", "openai", "--members", "a1", "--provider", "openai")
	stay := w.box.Run("stays", containerbox.ContainerOptions{NetNS: w.pair.Agent})
	host := coversIn(t, os.Getpid())
	var attaching sync.WaitGroup
	done := make(chan struct{})
	attaching.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			_, _ = w.try("attach", "--container", "flighty") // it may be there or not
			_, _ = w.try("attach", "--container", "stays")
			_, _ = w.try("detach", "--all")
		}
	})
	for range 12 {
		c := w.box.Run("flighty", containerbox.ContainerOptions{NetNS: w.pair.Agent, Args: []string{"sh", "-c", "sleep 0.1"}})
		c.Wait()
		c.Remove()
	}
	close(done)
	attaching.Wait()
	w.sluice("", "detach", "--all")
	if covers, programs := coversIn(t, stay.PID()), attachedPrograms(t, stay.Cgroup()); covers+programs+len(w.targets()) != 0 {
		t.Errorf("left: %d covers, %d programs, %+v", covers, programs, w.targets())
	}
	if now := coversIn(t, os.Getpid()); now != host {
		t.Errorf("%d covers on the host, there were %d", now, host)
	}
	w.sluice("", "attach", "--container", "stays")
	if got := w.targets(); len(got) != 1 || got[0].State != api.TargetStateAttached || coversIn(t, stay.PID()) == 0 {
		t.Errorf("it cannot be attached any more: %+v", got)
	}
	w.sluice("", "detach", "--all")
}

// programsOn are how many programs a cgroup carries, for whatever they are.
func programsOn(t *testing.T, cgroup string) (n int) {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, hook := range []ebpf.AttachType{
		ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetSockCreate, ebpf.AttachCGroupSockOps,
		ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind, ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupInet4PostBind, ebpf.AttachCGroupInet6PostBind, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername, ebpf.AttachCgroupInet4GetSockname,
		ebpf.AttachCgroupInet6GetSockname, ebpf.AttachCgroupInetSockRelease,
	} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: hook})
		if err != nil {
			t.Fatalf("%s: %v", hook, err)
		}
		n += len(found.Programs)
	}
	return n
}

// attachedPrograms are how many programs a cgroup carries for connect(2).
func attachedPrograms(t *testing.T, cgroup string) int {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	if err != nil {
		t.Fatal(err)
	}
	return len(found.Programs)
}
