package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	// bootLimit is how long a guest may take from power on to a systemd that is done. Alone on two cores it takes 20 s.
	bootLimit = 10 * time.Minute
	// commandLimit is for a command that does next to nothing.
	commandLimit = time.Minute
)

// guest is a machine that is on.
type guest struct {
	ssh     []string        // a shell line of root's is appended
	console string          // the file with what it says on its serial line
	ended   <-chan struct{} // closed when the machine is off
}

// say runs a shell line and returns what it printed.
func (g *guest) say(ctx context.Context, line string, stdin io.Reader) (string, error) {
	cmd := command(ctx, append(slices.Clone(g.ssh), line)...)
	cmd.Stdin = stdin
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("in the guest: %s: %w: %s%s", line, err, out, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// ready waits until systemd has started everything, in another boot than the one named.
func (g *guest) ready(ctx context.Context, notBoot string) (boot string, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, commandLimit)
		said, tried := g.say(try, "cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait; systemctl --failed --plain --no-legend", nil)
		done()
		lines := strings.Split(said, "\n")
		switch {
		case tried == nil && lines[0] != notBoot && len(lines) > 1 && lines[1] == "running":
			return lines[0], nil
		case len(lines) > 1 && lines[1] == "degraded":
			return "", fmt.Errorf("the guest is up, but something in it failed: %s", strings.Join(lines[2:], "; "))
		}
		select {
		case <-g.ended:
			return "", errors.New("the machine is off")
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), tried)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// reboot boots the guest again, and waits until it is up.
func (g *guest) reboot(ctx context.Context, boot string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		// It is asked until it has said that it will, or has: a connection may fail, or be cut before the answer.
		try, done := context.WithTimeout(ctx, commandLimit)
		_, tried := g.say(try, "test $(cat /proc/sys/kernel/random/boot_id) != "+boot+" || systemctl reboot", nil)
		done()
		if tried == nil {
			return g.ready(ctx, boot)
		}
		select {
		case <-g.ended:
			return "", errors.New("the machine is off")
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), tried)
		case <-time.After(time.Second):
		}
	}
}
