package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// kernelNames are the names in image/kernels, and the guest's own.
func kernelNames() ([]string, error) {
	text, err := os.ReadFile("scripts/vm/image/kernels")
	if err != nil {
		return nil, err
	}
	names := []string{ownKernel}
	for line := range bytes.Lines(text) {
		if fields := strings.Fields(string(line)); len(fields) == 3 && !strings.HasPrefix(fields[0], "#") {
			names = append(names, fields[0])
		}
	}
	return names, nil
}

// kernels runs the tests of the kernel side on each kernel.
func (h *host) kernels(ctx context.Context, names []string) error {
	if len(names) == 0 {
		var err error
		if names, err = kernelNames(); err != nil {
			return err
		}
	}
	i, err := h.image(ctx)
	if err != nil {
		return err
	}
	parcel, err := h.parcel(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, name := range names {
		if err := h.onKernel(ctx, i, name, parcel); err != nil {
			failed = errors.Join(failed, fmt.Errorf("kernel %s: %w", name, err))
		}
	}
	return failed
}

func (h *host) onKernel(ctx context.Context, i image, name, parcel string) error {
	k := i.kernel()
	if name != ownKernel {
		var err error
		if k, err = h.kernel(ctx, name); err != nil {
			return err
		}
	}
	return h.on(ctx, i, k, func(m *machine, _ string) error {
		if err := m.unpack(ctx, parcel); err != nil {
			return err
		}
		if h.wants("TestKernel") {
			if err := h.goTest(ctx, &m.guest, "-tags", "guest", "-run", "^TestKernel$", "./scripts/vm/guest"); err != nil {
				return err
			}
		}
		// TestKernel leaves word where nothing can be attached: the programs' own tests have nothing to test there.
		lacking, err := m.say(ctx, "cat "+guestDir+"/lacking 2>/dev/null || true", nil)
		if err != nil {
			return err
		}
		if lacking != "" {
			fmt.Printf("vm: kernel %s: the tests of ./bpf are not run, for nothing can be attached: %s\n", name, lacking)
			return nil
		}
		tests := ofTheKernel
		if h.only != "" {
			tests = h.only
		}
		skip := notInAGuest
		if name == ownKernel {
			skip += "|^TestGuardOutlivesTheDaemon$" // is about tcx, which Linux 6.1 has not
		}
		return h.goTest(ctx, &m.guest, "-run", tests, "-skip", skip, "./bpf")
	})
}

// ofTheKernel are the tests of ./bpf whose outcome is up to the kernel: the ways round the redirect and the guard, what is in force, whose
// share a flow is and what others leave of it, and what is left. The others are about bookkeeping, and each load of the programs takes an
// emulated processor seconds.
const ofTheKernel = "^Test(Probe|Ways.*|Strict|WithoutIPv6|Guard.*|FramesThatChange|PortsRewrittenOnTheWay|PacketsOfNobody" +
	"|AttachParentAndChild|FailedConnectKeepsNoPlace|ConnectionTakenForAnothers|OlderConnections|ServersAreLetBe|Vigil|TakeIsOnce" +
	"|LoadAdoptsItsPins|RemoveLeavesNothing|Shares.*|(One|Many)Targets?Leaves?FlowsForOthers)$"

// notInAGuest are those of them that are not for the guest; docs/kernels.md says why each is not.
const notInAGuest = "^TestWaysOfAsking$/^case_40_programs$|^TestWaysOut$/^namespaces_of_its_own$" +
	"|^TestGuardFrames$/^around_the_queues_in_32_bits$" +
	"|^TestWaysOfAsking$/^case_16_frames_of_its_own_making$/^around_the_queues_in_32_bits$"

// wants reports whether a test is among those that were asked for.
func (h *host) wants(test string) bool {
	asked, err := regexp.MatchString(h.only, test)
	return asked || err != nil // go test says what is wrong with the expression
}

// prepare makes what the cache lacks for a guest, and these kernels.
func (h *host) prepare(ctx context.Context, kernels []string) error {
	if _, err := h.image(ctx); err != nil {
		return err
	}
	for _, name := range kernels {
		if _, err := h.kernel(ctx, name); err != nil {
			return err
		}
	}
	_, err := h.parcel(ctx)
	return err
}
