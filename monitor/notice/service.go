package notice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/url"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr"
	"github.com/nicholas-fedor/shoutrrr/pkg/router"
)

// serviceLimit is how long a service may take; the daemon's end waits for it.
const serviceLimit = 10 * time.Second

// Service sends notices to a chat, push or mail service that the shoutrrr library
// knows, named by a URL of that library: slack://, discord://, ntfy://, smtp:// and
// others. The URL holds the service's secret and is not repeated in errors.
type Service struct {
	name   string
	url    string
	router *router.ServiceRouter
}

// NewService makes the channel "service:" + name.
func NewService(name, target string) (*Service, error) {
	r, err := shoutrrr.NewSender(log.New(io.Discard, "", 0), target)
	if err != nil {
		return nil, redact(innermost(err), target)
	}
	r.Timeout = serviceLimit
	return &Service{name: "service:" + name, url: target, router: r}, nil
}

// Name is the channel's.
func (s *Service) Name() string { return s.name }

// Send sends the notice's sentence. The library takes no context: it is given up
// after its time, not when ctx ends.
func (s *Service) Send(ctx context.Context, n Notice) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return redact(errors.Join(s.router.Send(n.Text, nil)...), s.url)
}

// innermost is what is wrong, without what the library was about.
func innermost(err error) error {
	for {
		within := errors.Unwrap(err)
		if within == nil {
			return err
		}
		err = within
	}
}

// redact takes every part of the URL that may be a secret out of an error.
func redact(err error, target string) error {
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), target, "…")
	u, parseErr := url.Parse(target)
	if parseErr != nil {
		return errors.New("the URL cannot be read")
	}
	for _, part := range secretParts(u) {
		text = strings.ReplaceAll(text, part, "…")
		text = strings.ReplaceAll(text, url.QueryEscape(part), "…")
		text = strings.ReplaceAll(text, url.PathEscape(part), "…")
	}
	return fmt.Errorf("%s: %s", u.Scheme, text)
}

// secretParts are the parts of a service's URL. Where the secret is differs from
// service to service, so all but the scheme and what is too short for one is taken.
func secretParts(u *url.URL) []string {
	password, _ := u.User.Password()
	parts := append([]string{u.Host, u.Hostname(), u.User.Username(), password, u.Fragment}, strings.Split(u.Path, "/")...)
	for _, values := range u.Query() {
		parts = append(parts, values...)
	}
	kept := parts[:0]
	for _, p := range parts {
		if len(p) >= 6 {
			kept = append(kept, p)
		}
	}
	return kept
}
