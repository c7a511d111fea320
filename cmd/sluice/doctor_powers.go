package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/intercept/cgroup"
	"github.com/sluice-proxy/sluice/intercept/powers"
)

// powersName is how doctor calls a process of its own that looks at the agents'. It is of no use by itself.
const powersName = "__powers"

// powersLimit is how long that may take.
const powersLimit = 15 * time.Second

// powersAsked is what such a process is told, and powersFound what it says of each cgroup.
type powersAsked struct {
	Host    powers.Host
	Cgroups []string
}

type powersFound struct {
	Cgroup string
	Powers []powers.Power
	Gone   bool // it has ended
	Error  string
}

func (c *cli) powersCommand() *cobra.Command {
	return &cobra.Command{
		Use: powersName, Hidden: true, Args: arguments(), Short: "A part of doctor",
		RunE: func(*cobra.Command, []string) error {
			var asked powersAsked
			if err := json.NewDecoder(c.stdin).Decode(&asked); err != nil {
				return errors.New(powersName + ": this is a part of 'sluice doctor' and not called by hand")
			}
			var one sync.Mutex
			var all sync.WaitGroup
			to := json.NewEncoder(c.stdout)
			for _, path := range asked.Cgroups {
				all.Go(func() {
					found := powersOf(path, asked.Host)
					one.Lock()
					defer one.Unlock()
					_ = to.Encode(found) // whoever asked may be gone
				})
			}
			all.Wait()
			return nil
		},
	}
}

func powersOf(path string, h powers.Host) powersFound {
	found := powersFound{Cgroup: path}
	pids, err := cgroup.Processes(path)
	if err == nil {
		if h.Mount, err = cgroup.Mount(); err == nil {
			found.Powers, err = h.Of(path, pids)
		}
	}
	if found.Gone = errors.Is(err, fs.ErrNotExist); err != nil && !found.Gone {
		found.Error = err.Error()
	}
	return found
}

// lookApart looks at the processes of cgroups from another process: what waits for a file system that does not answer (FUSE, whose
// server has taken the question) cannot be ended, and nor can the process that it is in. That one is left alone then, and ends with the
// file system. What is not in the answer did not come in time.
func lookApart(ctx context.Context, asked powersAsked) (map[string]powersFound, error) {
	ctx, cancel := context.WithTimeout(ctx, powersLimit)
	defer cancel()
	told, err := json.Marshal(asked)
	if err != nil {
		return nil, err
	}
	child := exec.Command("/proc/self/exe", powersName)
	child.Args[0], child.Stdin = "sluice", bytes.NewReader(told)
	out, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	said := make(chan powersFound, len(asked.Cgroups))
	go func() {
		defer close(said)
		for from := json.NewDecoder(out); ; {
			var one powersFound
			if err := from.Decode(&one); err != nil {
				_, _ = io.Copy(io.Discard, out)
				_ = child.Wait()
				return
			}
			said <- one
		}
	}()
	all := make(map[string]powersFound)
	for {
		select {
		case one, more := <-said:
			if !more {
				return all, nil
			}
			all[one.Cgroup] = one
		case <-ctx.Done():
			_ = child.Process.Kill()
			return all, nil
		}
	}
}
