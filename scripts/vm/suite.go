package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/scripts/containerbox"
)

// host is this side: where files are made for a run, and what is kept from run to run.
type host struct {
	dir   string // gone after the run
	cache cache
	only  string // tests to run; "" = all
}

// Where the guest has what the tests need; scripts/vm/guest reads it there.
const guestDir = "/root/sluice"

// fast runs the product's tests in plain qemu.
func (h *host) fast(ctx context.Context) error {
	i, err := h.image(ctx)
	if err != nil {
		return err
	}
	parcel, err := h.parcel(ctx)
	if err != nil {
		return err
	}
	return h.on(ctx, i, i.kernel(), func(m *machine, boot string) error {
		return h.product(ctx, &m.guest, boot, parcel)
	})
}

// bootOnly sees that plain qemu boots the image.
func (h *host) bootOnly(ctx context.Context) error {
	i, err := h.image(ctx)
	if err != nil {
		return err
	}
	return h.on(ctx, i, i.kernel(), func(*machine, string) error { return nil })
}

// product runs the tests of the whole product: those of one boot, and after another boot those that look what became of it.
func (h *host) product(ctx context.Context, g *guest, boot, parcel string) error {
	if err := g.unpack(ctx, parcel); err != nil {
		return err
	}
	for _, test := range []string{"TestGuest", "TestGuestAfterReboot"} {
		if test == "TestGuestAfterReboot" {
			begun := time.Now()
			if _, err := g.reboot(ctx, boot); err != nil {
				return fmt.Errorf("reboot: %w; the console's last words:\n%s", err, g.last())
			}
			fmt.Printf("vm: up again in %s\n", time.Since(begun).Round(100*time.Millisecond))
		}
		run := "^" + test + "$"
		if h.only != "" {
			run += "/(" + h.only + ")"
		}
		if err := h.goTest(ctx, g, "-tags", "guest", "-run", run, "./scripts/vm/guest"); err != nil {
			return err
		}
	}
	return nil
}

// goTest runs tests of this module in the guest: go test builds them here, and has exec.sh run them there.
func (h *host) goTest(ctx context.Context, g *guest, args ...string) error {
	// It is run in the directory of the tests' package.
	exec, err := filepath.Abs("scripts/vm/exec.sh")
	if err != nil {
		return err
	}
	cmd := command(ctx, append([]string{"go", "test", "-v", "-count", "1", "-timeout", "50m", "-exec", exec}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "SLUICE_VM_SSH="+strings.Join(g.ssh, " "))
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	return nil
}

// The versions that an upgrade goes to and comes back from are the tree's own and one that is above every other.
const nextVersion = "v999.0.0"

// source is what the parcel is made of.
var source = append([]string{
	"go.mod", "go.sum", "Makefile", "LICENSE", "bpf", "cmd", "control", "intercept", "monitor", "pool", "reset", "scripts/packaging",
	"scripts/simulator", "scripts/containerbox", "scripts/tools", "scripts/vm/suite.go",
}, notInParcel...)

// notInParcel is what is beside the source and not built.
var notInParcel = []string{":(exclude)*_test.go", ":(exclude)*/testdata/*", ":(exclude)*.md"}

// parcel is a tar file of what the tests need in the guest: two versions of the package, the simulator and a client as
// commands, the containers' image. All that goes into it is in the tree.
func (h *host) parcel(ctx context.Context) (string, error) {
	key, err := digest(source...)
	if err != nil {
		return "", err
	}
	dir, err := h.cache.entry(ctx, "parcels", key[:16], h.buildParcel)
	return filepath.Join(dir, "parcel.tar"), err
}

func (h *host) buildParcel(ctx context.Context, dir string) error {
	fmt.Println("vm: building the package, twice, and what its tests need")
	built := filepath.Join(h.dir, "built")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, version := range map[string]string{"this": "", "next": nextVersion} {
		args := []string{"make", "--no-print-directory", "package", "DIST=" + filepath.Join(built, name)}
		if version != "" {
			args = append(args, "VERSION="+version)
		}
		if err := h.build(ctx, args...); err != nil {
			return err
		}
	}
	for name, pkg := range map[string]string{"simulator": "./scripts/simulator/cmd", "fetch": "./scripts/containerbox/fetch"} {
		if err := h.build(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(built, name), pkg); err != nil {
			return err
		}
	}
	roots, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		return err
	}
	// A few will do: an emulated processor takes a second to read them all, at each start of a program in there.
	const end = "-----END CERTIFICATE-----\n"
	roots = []byte(strings.Join(strings.SplitAfterN(string(roots), end, 4)[:3], ""))
	agent, err := containerbox.Options{
		Programs: map[string]string{"/usr/bin/hermes": "github.com/sluice-proxy/sluice/scripts/containerbox/hermes"},
		Files: map[string]containerbox.File{
			"/etc/hosts":                         {Body: []byte("127.0.0.1 localhost\n198.18.0.1 api.openai.com\n")},
			"/etc/ssl/certs/ca-certificates.crt": {Body: roots},
		},
	}.Pack(h.dir)
	if err != nil {
		return err
	}
	files := map[string]containerbox.File{"agent.tar": {Body: agent}}
	for name, pattern := range map[string]string{
		"this.deb": "this/*.deb", "next.deb": "next/*.deb", "simulator": "simulator", "fetch": "fetch",
	} {
		found, err := filepath.Glob(filepath.Join(built, pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("built was %q (%v), want one %s", found, err, pattern)
		}
		body, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		files[name] = containerbox.File{Body: body, Mode: 0o755}
	}
	return pack(filepath.Join(dir, "parcel.tar"), files)
}

func (h *host) build(ctx context.Context, argv ...string) error {
	cmd := command(ctx, argv...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOARCH=amd64", "MAKEFLAGS=", "MAKELEVEL=", "MFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return nil
}

func pack(to string, files map[string]containerbox.File) error {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: f.Mode | 0o600, Size: int64(len(f.Body))}); err != nil {
			return err
		}
		if _, err := w.Write(f.Body); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), os.WriteFile(to, out.Bytes(), 0o600))
}

// unpack brings a tar file's content to the guest.
func (g *guest) unpack(ctx context.Context, parcel string) error {
	file, err := os.Open(parcel)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = g.say(ctx, "rm -rf "+guestDir+" && mkdir "+guestDir+" && tar -x -C "+guestDir, file)
	return err
}

// shell keeps a guest on until Ctrl-C.
func (h *host) shell(ctx context.Context, name string) error {
	i, err := h.image(ctx)
	if err != nil {
		return err
	}
	k := i.kernel()
	if name != ownKernel {
		if k, err = h.kernel(ctx, name); err != nil {
			return err
		}
	}
	parcel, err := h.parcel(ctx)
	if err != nil {
		return err
	}
	return h.on(ctx, i, k, func(m *machine, _ string) error {
		if err := m.unpack(ctx, parcel); err != nil {
			return err
		}
		fmt.Printf("Its console is in %s; what the tests use is in %s there. Ctrl-C ends it.\n%s\n", m.console, guestDir, strings.Join(m.ssh, " "))
		select {
		case <-ctx.Done():
			return nil
		case <-m.ended:
			return errors.New("the machine is off")
		}
	})
}
