package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/sluice-proxy/sluice/control/api"
)

// apiSocketName is the prefix of the socket's name in the store; its file's inode follows.
const apiSocketName = "api-"

func (d *sluiced) openSocket(ctx context.Context) error {
	sock := d.inheritSocket()
	if sock == nil {
		var err error
		sock, err = api.Listen(ctx, d.cfg.Socket)
		if errors.Is(err, api.ErrInUse) {
			return fmt.Errorf("%w: stop that one, or choose another --socket", err)
		}
		if err != nil {
			return err
		}
		d.keepSocket(sock)
	}
	d.sock = sock
	d.acquired(func() error {
		if err := sock.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}

// inheritSocket goes on with the socket of an earlier daemon, whose clients may be waiting. Stored ones that
// are not at their place any more are let go.
func (d *sluiced) inheritSocket() (sock *api.Socket) {
	if d.fds == nil {
		return nil
	}
	for name, files := range d.fds.take(apiSocketName) {
		inode, err := strconv.ParseUint(strings.TrimPrefix(name, apiSocketName), 10, 64)
		for _, f := range files {
			if err != nil || sock != nil {
				err = errors.Join(err, f.Close())
				continue
			}
			sock, err = api.Inherit(f, d.cfg.Socket, inode)
		}
		if err != nil {
			d.log.Info("stored socket let go", "name", name, "error", err)
			if err := d.fds.Remove(name); err != nil {
				d.log.Warn("stored descriptor not let go", "name", name, "error", err)
			}
		}
	}
	if sock != nil {
		sock.Stay()
	}
	return sock
}

// keepSocket has the socket outlive this daemon: a command that is given during a restart waits for the next.
func (d *sluiced) keepSocket(sock *api.Socket) {
	if d.fds == nil {
		return
	}
	raw, err := sock.SyscallConn()
	if err == nil {
		name := apiSocketName + strconv.FormatUint(sock.Inode(), 10)
		if ctl := raw.Control(func(fd uintptr) { err = d.fds.Store(name, fd) }); ctl != nil {
			err = ctl
		}
	}
	if err != nil {
		d.log.Warn("the API's socket is not stored: commands fail during a restart", "error", err)
		return
	}
	sock.Stay()
}
