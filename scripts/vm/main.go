// Command vm runs the tests of the whole product in a guest: Debian with systemd, cgroup v2 alone and a kernel of its own.
//
//	vm fast                    the tests in plain qemu, from a cached image
//	vm vagrant                 the same, in a guest that Vagrant and libvirt bring up
//	vm due                     the first two as far as their inputs changed since they last passed on this machine; as the tests are the
//	                           same, Vagrant's guest alone where both are due
//	vm kernels [NAME...]       the tests of the kernel side, on each kernel of image/kernels and on the guest's own
//	vm shell [KERNEL]          a guest to look around in, until Ctrl-C
//	vm prepare [NAME...]       only fill the cache: image, package, and these kernels
//
// fast, vagrant and kernels take -changed: run only if what they test with changed since they last passed on this machine, and say
// so if not. However it ends, no process, mount, network namespace or file of a guest is left, but for the cache.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// limit is how long a run may take, but for shell: one kernel after the other, beside whatever else the machine does.
const limit = 2 * time.Hour

func main() { os.Exit(start(os.Args[1:])) }

func start(args []string) int {
	flags := flag.NewFlagSet("vm", flag.ContinueOnError)
	changed := flags.Bool("changed", false, "only if the inputs changed since the last run that passed on this machine")
	only := flags.String("run", "", "only the tests that match `REGEXP`, as of go test; such a run is not noted as passed")
	flags.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: vm fast|vagrant|due|kernels|shell|prepare [-changed] [-run REGEXP] [NAME...]")
		flags.PrintDefaults()
	}
	if len(args) == 0 {
		flags.Usage()
		return 2
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	ctx, stop := sandbox.Signals()
	defer stop()
	if args[0] != "shell" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err := run(ctx, args[0], flags.Args(), *only, *changed)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		flags.Usage()
		return 2
	case errors.Is(ctx.Err(), context.Canceled):
		fmt.Fprintln(os.Stderr, "vm: interrupted; cleaned up")
		return 130
	}
	fmt.Fprintln(os.Stderr, "vm: "+err.Error())
	return 1
}

var errUsage = errors.New("usage")

// run does what the command line says, in a directory that is gone afterwards.
func run(ctx context.Context, what string, names []string, only string, changed bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, to make the guest's root directory: run it with sudo")
	}
	store, err := openCache()
	if err != nil {
		return err
	}
	// Short: it holds sockets.
	dir, err := os.MkdirTemp("", "sluice-vm")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	h := &host{dir: dir, cache: store, only: only}
	in := guests{
		vagrant: func() error { return h.vagrant(ctx) },
		fast:    func() error { return h.fast(ctx) },
		boot:    func() error { return h.bootOnly(ctx) },
	}
	switch {
	case what == "fast" && len(names) == 0:
		return h.noted(what, changed, in.fast)
	case what == "vagrant" && len(names) == 0:
		return h.noted(what, changed, in.vagrant)
	case what == "due" && len(names) == 0 && only == "":
		return h.due(in)
	case what == "kernels" && len(names) == 0:
		return h.noted(what, changed, func() error { return h.kernels(ctx, names) })
	case what == "kernels" && !changed:
		return h.kernels(ctx, names)
	case what == "prepare":
		return h.prepare(ctx, names)
	case what == "shell" && len(names) < 2:
		return h.shell(ctx, append(names, ownKernel)[0])
	}
	return errUsage
}

// noted does a run and notes that it has passed with its inputs. With changed it says when it was if it has before.
func (h *host) noted(what string, changed bool, do func() error) error {
	key, err := inputs(what)
	if err != nil {
		return err
	}
	if when := h.cache.passed(what, key); changed && !when.IsZero() {
		fmt.Printf("vm %s: passed at %s with the same inputs (%s): not run again. 'go run ./scripts/vm %s' runs it\n",
			what, when.Format(time.RFC3339), key[:12], what)
		return nil
	}
	begun := time.Now()
	if err := do(); err != nil {
		return err
	}
	fmt.Printf("vm %s: passed in %s\n", what, time.Since(begun).Round(time.Second))
	if h.only != "" {
		return nil
	}
	return h.cache.pass(what, key)
}

// guests are the ways to test the product, and the one to see that plain qemu boots.
type guests struct{ vagrant, fast, boot func() error }

// due has Vagrant's guest tested if what that is made of changed, and plain qemu's if only the product did. What passes in the one need
// not be seen in the other again; there it is enough that plain qemu boots the image.
func (h *host) due(g guests) error {
	ran := false
	err := h.noted("vagrant", true, func() error {
		ran = true
		return g.vagrant()
	})
	if err != nil {
		return err
	}
	return h.noted("fast", true, func() error {
		if !ran {
			return g.fast()
		}
		fmt.Println("vm fast: the tests have just passed in Vagrant's guest: that plain qemu boots is left to see")
		return g.boot()
	})
}

// inputs is a hash over what a run depends on so much that it is worth repeating when it changes: no pages, and of the tests those alone
// that run in the guest.
func inputs(what string) (string, error) {
	here := []string{"scripts/vm", "scripts/deps.sh", ":(exclude,glob)scripts/vm/*_test.go", ":(exclude)*.md"}
	sets := map[string][][]string{
		"fast":    {here, source},
		"vagrant": {here, append([]string{"scripts/packaging", "Makefile"}, notInParcel...)},
		"kernels": {here, {"bpf"}, append([]string{"intercept"}, notInParcel...)},
	}
	var keys []string
	for _, paths := range sets[what] {
		key, err := digest(paths...)
		if err != nil {
			return "", err
		}
		keys = append(keys, key)
	}
	sum := sha256.Sum256([]byte(strings.Join(keys, " ")))
	return hex.EncodeToString(sum[:]), nil
}
