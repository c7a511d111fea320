package container

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// dockerAnswer is the most that is read of an answer of Docker's, in bytes.
const dockerAnswer = 64 << 20

// dockerContainer is what GET /containers/json of Docker's Engine API tells of one.
type dockerContainer struct {
	ID      string `json:"Id"`
	Names   []string
	Labels  map[string]string
	Created int64 // seconds since 1970
}

// ofDocker lists Docker's containers, or one of them.
func (f *Finder) ofDocker(ctx context.Context, id ...string) ([]dockerContainer, error) {
	if _, err := os.Stat(f.opts.Docker); err != nil {
		return nil, err
	}
	query := url.Values{"all": {"1"}}
	if len(id) > 0 {
		filters, err := json.Marshal(map[string][]string{"id": id})
		if err != nil {
			return nil, err
		}
		query.Set("filters", string(filters))
	}
	var all []dockerContainer
	if err := f.askDocker(ctx, "/containers/json?"+query.Encode(), &all); err != nil {
		return nil, err
	}
	return all, nil
}

// dockerPID asks Docker for the first process of a container that our containerd does
// not know. 0: it does not run.
func (f *Finder) dockerPID(ctx context.Context, id string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, f.opts.Timeout)
	defer cancel()
	var one struct {
		State struct{ Pid int }
	}
	if err := f.askDocker(ctx, "/containers/"+url.PathEscape(id)+"/json", &one); err != nil {
		return 0, fmt.Errorf("ask Docker at %s: %w", f.opts.Docker, err)
	}
	return one.State.Pid, nil
}

// askDocker gets one answer from Docker's socket. The path has no version: then the
// daemon's own newest counts.
func (f *Finder) askDocker(ctx context.Context, path string, into any) error {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", f.opts.Docker)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, dockerAnswer)
	if resp.StatusCode != http.StatusOK {
		var said struct{ Message string }
		_ = json.NewDecoder(body).Decode(&said) // it is only for the message
		return fmt.Errorf("%s: %s", resp.Status, said.Message)
	}
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("its answer: %w", err)
	}
	return nil
}

// merge adds to containerd's containers what Docker knows of them, and the ones that
// only Docker has: it may use a containerd of its own.
func merge(all []Container, theirs []dockerContainer) []Container {
	at := make(map[string]int)
	for i, c := range all {
		if c.Namespace == namespaceDocker {
			at[c.ID] = i
		}
	}
	for _, d := range theirs {
		i, known := at[d.ID]
		if !known {
			all = append(all, Container{
				ID: d.ID, Namespace: namespaceDocker, Runtime: Docker, Name: d.ID, Created: time.Unix(d.Created, 0),
			})
			i = len(all) - 1
		}
		all[i].add(d.Labels)
		for _, name := range d.Names {
			// "/NAME"; "/OTHER/NAME" is a link's.
			if name = strings.TrimPrefix(name, "/"); name != "" && !strings.Contains(name, "/") {
				all[i].Name = name
			}
		}
	}
	return all
}
