package main

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// double answers on a socket in the place of a daemon, and keeps what it was asked.
type double struct {
	socket string

	mu    sync.Mutex
	asked []string // METHOD PATH
}

func newDouble(t *testing.T, answer http.HandlerFunc) *double {
	t.Helper()
	d := &double{socket: filepath.Join(t.TempDir(), "s")}
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.asked = append(d.asked, r.Method+" "+r.URL.Path)
		d.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		answer(w, r)
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return d
}

func (d *double) all() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.asked, ", ")
}
