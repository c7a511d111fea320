package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-proxy/sluice/scripts/sandbox"
)

// agent is a shell that `sluice run` started in the agent's network namespace.
// It knows nothing of sluice and calls the API with curl, as anybody would.
type agent struct {
	proc   *sandbox.Process
	stdin  io.WriteCloser
	lines  chan string   // what it prints; closed when it has ended
	said   *sandbox.Tail // its standard error
	reader sync.WaitGroup
	quit   chan struct{} // closed: what it prints is read no more
}

// startAgent starts it with an environment of PATH and HOME, nothing else.
func startAgent(ctx context.Context, d *sandbox.Daemon, w *world) (*agent, error) {
	home := filepath.Join(d.Dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	a := &agent{lines: make(chan string), said: sandbox.NewTail("", false), quit: make(chan struct{})}
	cmd := sandbox.Command([]string{w.hostsFile + ":/etc/hosts"},
		d.Bin, "--socket", d.Socket, "run", "--pool", poolName, "--", "/bin/sh")
	cmd.Env, cmd.Stderr, cmd.Dir = sandbox.Environment(home), a.said, "/"
	var err error
	if a.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = write
	a.proc, err = sandbox.Start("sluice run", cmd, func() error { return w.agent.Do(cmd.Start) })
	write.Close()
	if err != nil {
		read.Close()
		return nil, err
	}
	a.reader.Go(func() { a.read(read) })
	if _, err := a.shell(ctx, "true"); err != nil {
		return nil, errors.Join(err, a.stop())
	}
	return a, nil
}

// read passes the agent's output on, line by line.
func (a *agent) read(from *os.File) {
	defer from.Close()
	defer close(a.lines)
	s := bufio.NewScanner(from)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		select {
		case a.lines <- s.Text():
		case <-a.quit:
			return
		}
	}
}

// stop ends the shell by the end of its input; then `sluice run` detaches.
func (a *agent) stop() error {
	close(a.quit)
	_ = a.stdin.Close() // it may have ended by itself
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	var err error
	select {
	case <-a.proc.Ended():
	case <-timer.C: // in the middle of a request
		err = a.proc.Stop()
	}
	a.reader.Wait()
	return errors.Join(err, sandbox.SweepRun(a.proc.PID()))
}

// shell has the agent run a line and returns what it printed.
func (a *agent) shell(ctx context.Context, line string) (string, error) {
	const mark = "## done "
	// A line of its own, whatever the output ended with.
	if _, err := fmt.Fprintf(a.stdin, "%s\nprintf '\\n%s%%s\\n' $?\n", line, mark); err != nil {
		return "", a.died(err)
	}
	var out strings.Builder
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case printed, ok := <-a.lines:
			if !ok {
				return "", a.died(io.ErrUnexpectedEOF)
			}
			status, done := strings.CutPrefix(printed, mark)
			if !done {
				out.WriteString(printed + "\n")
				continue
			}
			if text := strings.TrimSuffix(out.String(), "\n"); status == "0" {
				return text, nil
			}
			return "", fmt.Errorf("the agent's %q ended with status %s: %s", line, status, out.String())
		}
	}
}

func (a *agent) died(err error) error {
	return fmt.Errorf("sluice run ended: %w\n%s", err, a.said.Text())
}

// answer is what the agent saw.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// events counts the events of a stream that ended in order; otherwise ok is false.
func (a answer) events() (n int, ok bool) {
	n = strings.Count(a.Body, "data: {")
	return n, strings.HasSuffix(strings.TrimSpace(a.Body), "data: [DONE]")
}

// curl has the agent ask for something.
func (a *agent) curl(ctx context.Context, args string) (answer, error) {
	out, err := a.shell(ctx, "curl -sS -N -i --max-time 30 "+args+" 2>&1")
	if err != nil {
		return answer{}, err
	}
	return parseAnswer(out)
}

// parseAnswer reads what `curl -i` prints.
func parseAnswer(out string) (answer, error) {
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader([]byte(out))))
	for {
		line, err := r.ReadLine()
		if err != nil {
			return answer{}, fmt.Errorf("curl printed no answer: %q", out)
		}
		parts := strings.Fields(line)
		if len(parts) < 2 || !strings.HasPrefix(parts[0], "HTTP/") {
			return answer{}, fmt.Errorf("curl printed %q where a status line should be", line)
		}
		status, err := strconv.Atoi(parts[1])
		if err != nil {
			return answer{}, fmt.Errorf("curl printed the status line %q", line)
		}
		header, err := r.ReadMIMEHeader()
		if err != nil && !errors.Is(err, io.EOF) {
			return answer{}, fmt.Errorf("curl printed a header section that cannot be read: %w", err)
		}
		if status < 200 {
			continue
		}
		body, err := io.ReadAll(r.R)
		return answer{Status: status, Header: http.Header(header), Body: string(body)}, err
	}
}

// chat is a call of the chat API with the key that the agent was given.
func chat(stream bool) string {
	body := fmt.Sprintf(`{"model":"gpt-4o","stream":%t,"messages":[{"role":"user","content":"Say something."}]}`, stream)
	return `-H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" -d '` + body +
		`' https://api.openai.com/v1/chat/completions`
}
