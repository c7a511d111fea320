// Command simulator runs the upstream simulator from a configuration file, for scripts, the demo and trying things by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sluice-proxy/sluice/scripts/simulator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "simulator: "+err.Error())
		os.Exit(1)
	}
}

// run serves until ctx is done.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("simulator", flag.ContinueOnError)
	file := flags.String("config", "", "configuration `file` (TOML); none: a free port of 127.0.0.1 and no credential")
	verbose := flags.Bool("v", false, "log what goes wrong with connections")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	var config simulator.Config
	if *file != "" {
		raw, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		if config, err = simulator.ParseConfig(raw); err != nil {
			return err
		}
	}
	options := config.Options()
	if *verbose {
		options.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	sim, err := simulator.New(options)
	if err != nil {
		return err
	}
	return serve(ctx, sim, config)
}

func serve(ctx context.Context, sim *simulator.Simulator, config simulator.Config) (err error) {
	defer func() { err = errors.Join(err, sim.Close()) }()
	// Its context stays: Close ends the requests that are under way.
	if err := sim.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	if config.CAFile != "" {
		if err := os.WriteFile(config.CAFile, sim.CA(), 0o644); err != nil {
			return err
		}
	}
	if config.Admin == "" {
		fmt.Printf("listening tls=%s plain=%s\n", sim.Addr(), sim.PlainAddr())
		<-ctx.Done()
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", config.Admin)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	admin := &http.Server{Handler: sim.Admin(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- admin.Serve(listener) }()
	fmt.Printf("listening tls=%s plain=%s admin=%s\n", sim.Addr(), sim.PlainAddr(), listener.Addr())
	select {
	case <-ctx.Done():
		err = admin.Close()
		<-ended
		return err
	case err := <-ended:
		return fmt.Errorf("admin: %w", err)
	}
}
