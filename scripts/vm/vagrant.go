package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// vagrant runs the product's tests in a guest that the Vagrantfile describes.
func (h *host) vagrant(ctx context.Context) (err error) {
	i, err := h.image(ctx)
	if err != nil {
		return err
	}
	parcel, err := h.parcel(ctx)
	if err != nil {
		return err
	}
	l, err := h.startLibvirt(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	v := &vagrantfile{libvirt: l, image: i, dir: filepath.Join(h.dir, "vagrant"), console: filepath.Join(h.dir, "console.log")}
	if err := v.addBox(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if _, err := v.vagrant(ctx, "up", "--provider=libvirt"); err != nil {
		return fmt.Errorf("%w; the console's last words:\n%s", err, (&guest{console: v.console}).last())
	}
	fmt.Printf("vm: vagrant up took %s\n", time.Since(begun).Round(100*time.Millisecond))
	g, err := v.guest(ctx)
	if err != nil {
		return err
	}
	boot, err := g.ready(ctx, "")
	if err != nil {
		return fmt.Errorf("%w; the console's last words:\n%s", err, g.last())
	}
	if err := h.product(ctx, g, boot, parcel); err != nil {
		return err
	}
	_, err = v.vagrant(ctx, "destroy", "--force")
	return err
}

// vagrantfile is the guest that it describes, with all that Vagrant keeps in a directory of its own.
type vagrantfile struct {
	libvirt *libvirt
	image   image
	dir     string
	console string
}

// vagrant runs one of its commands where libvirt is, and returns what it printed.
func (v *vagrantfile) vagrant(ctx context.Context, args ...string) (string, error) {
	tree, err := os.Getwd()
	if err != nil {
		return "", err
	}
	cmd := command(ctx, v.libvirt.inside(append([]string{"vagrant"}, args...)...)...)
	cmd.Env = append(os.Environ(), "VAGRANT_HOME="+filepath.Join(v.dir, "home"), "VAGRANT_DOTFILE_PATH="+filepath.Join(v.dir, "state"),
		"VAGRANT_CWD="+filepath.Join(tree, "scripts/vm"), "VAGRANT_CHECKPOINT_DISABLE=1", "VAGRANT_DEFAULT_PROVIDER=libvirt",
		"SLUICE_VM_IMAGE="+v.image.dir, "SLUICE_VM_CONSOLE="+v.console)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("vagrant %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// addBox packs the image as a box, and has Vagrant take it.
func (v *vagrantfile) addBox(ctx context.Context) error {
	parts, box := filepath.Join(v.dir, "box"), filepath.Join(v.dir, "sluice.box")
	if err := os.MkdirAll(parts, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"metadata.json": `{"provider": "libvirt", "format": "qcow2", "virtual_size": 3}`,
		"Vagrantfile":   "Vagrant.configure('2') { }\n",
	} {
		if err := os.WriteFile(filepath.Join(parts, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Symlink(v.image.disk(), filepath.Join(parts, "box.img")); err != nil {
		return err
	}
	tar := command(ctx, "tar", "--dereference", "-C", parts, "-cf", box, "metadata.json", "Vagrantfile", "box.img")
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("the box: %w: %s", err, out)
	}
	_, err := v.vagrant(ctx, "box", "add", "--name", "sluice/bookworm", box)
	return errors.Join(err, os.Remove(box))
}

var hostName = regexp.MustCompile(`(?m)^\s*HostName (\S+)$`)

// guest is root's way into the machine that is up.
func (v *vagrantfile) guest(ctx context.Context) (*guest, error) {
	config, err := v.vagrant(ctx, "ssh-config")
	if err != nil {
		return nil, err
	}
	found := hostName.FindStringSubmatch(config)
	if found == nil {
		return nil, fmt.Errorf("vagrant ssh-config names no host: %s", config)
	}
	return &guest{ssh: v.libvirt.inside(ssh(v.image.key(), 22, found[1])...), console: v.console, ended: v.libvirt.process.Ended()}, nil
}
