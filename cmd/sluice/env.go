package main

import (
	"context"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/term"
)

const defaultSocket = "/run/sluice/sluice.sock"

// env is what a command has of the world around it.
type env struct {
	ctx    context.Context
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string
	now    func() time.Time
}

func defaultEnv() env {
	return env{
		ctx: context.Background(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv, now: time.Now,
	}
}

// terminal says whether a stream is one that a person sits at.
func terminal(stream any) bool {
	if w, ok := stream.(*checked); ok {
		stream = w.Writer
	}
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// cli is what all commands share: the world and the global flags.
type cli struct {
	env
	socket string
	format string
	colour string
}

// check holds the global flags against what they may be.
func (c *cli) check() error {
	if c.format != formatTable && c.format != formatJSON {
		return usageError{"-o " + c.format + ": there is only table and json"}
	}
	if !slices.Contains(colours, c.colour) {
		return usageError{"--color " + c.colour + ": there is only auto, always and never"}
	}
	return nil
}

// socketPath is where the daemon is sought: --socket, else SLUICE_SOCKET, else
// the place where a package puts it.
func (c *cli) socketPath() string {
	if c.socket != "" {
		return c.socket
	}
	if path := c.getenv("SLUICE_SOCKET"); path != "" {
		return path
	}
	return defaultSocket
}

// socketOf is socketPath for a command that reads the configuration, which counts where nothing else is said.
func (c *cli) socketOf(cfg config) string {
	if c.socket == "" && c.getenv("SLUICE_SOCKET") == "" {
		return cfg.Socket
	}
	return c.socketPath()
}

// optional points to the value unless it is the zero value, which means "not given".
func optional[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}
