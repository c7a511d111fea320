package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// exfilCall is what a hostile agent does on one connection. "$KEY" in what it sends is its
// placeholder.
type exfilCall struct {
	To      string `json:",omitempty"` // address and port
	Name    string `json:",omitempty"` // SNI; "" sends none
	ALPN    string `json:",omitempty"`
	Plain   bool   `json:",omitempty"` // no TLS
	OpenSSL bool   `json:",omitempty"` // its client sends names that Go's does not
	TLS12   bool   `json:",omitempty"`
	ECH     []byte `json:",omitempty"` // list of configurations: Name is the inner one
	Resume  bool   `json:",omitempty"` // with the session of any other host

	Send    []string      `json:",omitempty"` // HTTP/1: in one write each
	Streams [][][2]string `json:",omitempty"` // HTTP/2: fields in their order; "" is a body
	Answers int           `json:",omitempty"` // that are waited for; 0: one
}

// exfilAnswer is what became of it.
type exfilAnswer struct {
	Statuses []string // "resumed", "reset" and "closed" among them
	Text     string   // of all bodies
	Resumed  bool
	Err      string
}

// anySession gives every host the session that came last.
type anySession struct{ last *tls.ClientSessionState }

// Get implements [tls.ClientSessionCache].
func (s *anySession) Get(string) (*tls.ClientSessionState, bool) { return s.last, s.last != nil }

// Put implements [tls.ClientSessionCache].
func (s *anySession) Put(_ string, c *tls.ClientSessionState) {
	if c != nil {
		s.last = c
	}
}

// exfilClient is a command of the tests: it does a call a line.
func exfilClient() {
	var sessions anySession
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var c exfilCall
		if err := json.Unmarshal(bytes.ReplaceAll(lines.Bytes(), []byte("$KEY"), []byte(os.Getenv("OPENAI_API_KEY"))), &c); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		var a exfilAnswer
		if err := c.do(&a, &sessions); err != nil {
			a.Err = err.Error()
		}
		if a.Resumed {
			a.Statuses = append([]string{"resumed"}, a.Statuses...)
		}
		_ = out.Encode(a)
	}
}

func (c *exfilCall) do(a *exfilAnswer, sessions *anySession) error {
	conn, err := c.open(a, sessions)
	if err != nil {
		a.Statuses = append(a.Statuses, "closed")
		return err
	}
	defer conn.Close()
	if len(c.Streams) > 0 {
		return c.http2(conn, a)
	}
	return c.http1(conn, a)
}

func (c *exfilCall) open(a *exfilAnswer, sessions *anySession) (io.ReadWriteCloser, error) {
	if c.OpenSSL {
		return c.overOpenSSL()
	}
	conn, err := net.DialTimeout("tcp", c.To, 5*time.Second)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if c.Plain {
		return conn, nil
	}
	config := &tls.Config{ServerName: c.Name, InsecureSkipVerify: true, EncryptedClientHelloConfigList: c.ECH}
	if c.ALPN != "" {
		config.NextProtos = []string{c.ALPN}
	}
	if c.TLS12 {
		config.MaxVersion = tls.VersionTLS12
	}
	if c.Resume {
		config.ClientSessionCache = sessions
	}
	if c.ECH != nil {
		config.MinVersion = tls.VersionTLS13
		config.EncryptedClientHelloRejectionVerify = func(tls.ConnectionState) error { return nil }
	}
	secure := tls.Client(conn, config)
	err = secure.Handshake()
	a.Resumed = secure.ConnectionState().DidResume
	if err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// piped is a connection that another process holds.
type piped struct {
	io.Reader
	io.WriteCloser
	cmd *exec.Cmd
}

// Close implements [io.Closer].
func (p piped) Close() error {
	_ = p.cmd.Process.Kill()
	_ = p.WriteCloser.Close()
	return p.cmd.Wait()
}

func (c *exfilCall) overOpenSSL() (io.ReadWriteCloser, error) {
	cmd := exec.Command("timeout", "10", "openssl", "s_client", "-quiet", "-connect", c.To, "-servername", c.Name, "-alpn", c.ALPN)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return piped{out, in, cmd}, cmd.Start()
}

func (c *exfilCall) http1(conn io.ReadWriter, a *exfilAnswer) error {
	for _, text := range c.Send {
		if _, err := io.WriteString(conn, text); err != nil {
			a.Statuses = append(a.Statuses, "closed")
			return err
		}
	}
	for r := bufio.NewReader(conn); len(a.Statuses) < max(1, c.Answers); {
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			a.Statuses = append(a.Statuses, "closed")
			return err
		}
		a.Statuses = append(a.Statuses, fmt.Sprint(answer.StatusCode))
		var head bytes.Buffer
		_ = answer.Header.Write(&head)
		a.Text += head.String()
		if answer.StatusCode == http.StatusSwitchingProtocols {
			return nil
		}
		body, err := io.ReadAll(answer.Body)
		if a.Text += string(body); err != nil {
			return err
		}
	}
	return nil
}

func (c *exfilCall) http2(conn io.ReadWriter, a *exfilAnswer) error {
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		return err
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i, fields := range c.Streams {
		block.Reset()
		body, with := "", false
		for _, field := range fields {
			if field[0] == "" {
				body, with = field[1], true
				continue
			}
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		id := uint32(2*i + 1)
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: !with, EndHeaders: true})
		if err == nil && with {
			err = f.WriteData(id, true, []byte(body))
		}
		if err != nil {
			return err
		}
	}
	statuses := make([]string, len(c.Streams))
	defer func() {
		for _, s := range statuses {
			if s == "" {
				s = "closed"
			}
			a.Statuses = append(a.Statuses, s)
		}
	}()
	for left := len(c.Streams); left > 0; {
		frame, err := f.ReadFrame()
		if err != nil {
			return err
		}
		ended := false
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				if err := f.WriteSettingsAck(); err != nil {
					return err
				}
			}
		case *http2.MetaHeadersFrame:
			if status := frame.PseudoValue("status"); status != "" {
				statuses[frame.StreamID/2] = status
			}
			for _, field := range frame.RegularFields() {
				a.Text += field.Name + ": " + field.Value + "\n"
			}
			ended = frame.StreamEnded()
		case *http2.DataFrame:
			a.Text += string(frame.Data())
			ended = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			if statuses[frame.StreamID/2] == "" {
				statuses[frame.StreamID/2] = "reset"
			}
			ended = true
		case *http2.GoAwayFrame:
			return fmt.Errorf("%s: %s", frame.ErrCode, strings.TrimSpace(string(frame.DebugData())))
		}
		if ended {
			left--
		}
	}
	return nil
}
