package simulator

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// maxBody is the longest JSON body that a provider's API takes; tests of large
// bodies go up to here.
const maxBody = 256 << 20

// visit is one request on its way through the simulator.
type visit struct {
	*answer
	r       *http.Request
	sim     *Simulator
	conn    *connInfo
	seq     uint64
	body    *digest
	verdict verdict
	now     time.Time
	known   bool // it presented a credential that the simulator knows

	refusal string // the style of the refusal that its stream breaks off with, "" if it does not
}

// answer is the response writer, counting.
type answer struct {
	http.ResponseWriter
	status int
	sent   int64
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status < 200 { // 1xx come before the final one
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	if a.status < 200 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(p)
	a.sent += int64(n)
	return n, err
}

// Flush implements http.Flusher, which gRPC's handler looks for.
func (a *answer) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// digest is a request body that is hashed as it is read.
type digest struct {
	io.ReadCloser
	sum hash.Hash
	n   int64
}

// Read implements io.Reader.
func (d *digest) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	d.sum.Write(p[:n])
	d.n += int64(n)
	return n, err
}

func (d *digest) hex() string {
	if d.n == 0 {
		return ""
	}
	return hex.EncodeToString(d.sum.Sum(nil))
}

// serve handles every request.
func (s *Simulator) serve(w http.ResponseWriter, r *http.Request) {
	if !s.conns.enter() {
		return
	}
	defer s.conns.leave()
	v := s.newVisit(w, r)
	defer v.end()
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		s.grpc.ServeHTTP(v.answer, r)
		return
	}
	if handle := transportPath(r.URL.Path); handle != nil {
		if v.known && v.refused() {
			return
		}
		handle(v)
		return
	}
	v.api()(v)
}

// newVisit opens the journal's entry and asks the ledger.
func (s *Simulator) newVisit(w http.ResponseWriter, r *http.Request) *visit {
	v := &visit{answer: &answer{ResponseWriter: w}, r: r, sim: s, now: time.Now()}
	v.conn, _ = r.Context().Value(connKey{}).(*connInfo)
	v.body = &digest{ReadCloser: r.Body, sum: sha256.New()}
	r.Body = v.body
	list, secret := s.ledger.presented(r)
	// The token endpoint is asked with a refresh token, which is no use of the quota.
	if secret != "" && r.URL.Path != tokenPath {
		v.verdict = s.ledger.judge(secret, v.now)
		v.known = v.verdict.Credential != ""
	}
	v.seq = s.journal.open(v.entry(list))
	return v
}

func (v *visit) entry(list []Presented) Entry {
	e := Entry{
		Time: v.now, Remote: v.r.RemoteAddr, Proto: v.r.Proto, Method: v.r.Method, Host: v.r.Host, Path: v.r.URL.Path,
		Header: v.r.Header.Clone(), Credential: v.verdict.Credential, Presented: list,
		Continued: strings.EqualFold(v.r.Header.Get("Expect"), "100-continue"),
	}
	if local, ok := v.r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		e.Local = local.String()
	}
	if v.conn != nil {
		e.Conn, e.TLS, e.ServerName = v.conn.number, v.conn.secure, v.conn.serverName
		e.Local = v.conn.raw.LocalAddr().String()
	}
	for _, name := range credentialFields() {
		for i, value := range e.Header[name] {
			whose := v.sim.ledger.owner(bareToken(value))
			if whose == "" {
				whose = "unknown"
			}
			e.Header[name][i] = "(" + whose + ")"
		}
	}
	return e
}

// end closes the journal's entry.
func (v *visit) end() {
	gone := v.r.Context().Err() != nil
	v.sim.journal.update(v.seq, func(e *Entry) {
		e.Status, e.Sent, e.Ended, e.Cancelled = v.status, v.sent, time.Now(), gone
		if e.Status == 0 && !gone {
			e.Status = http.StatusOK // what net/http makes of a handler that wrote nothing
		}
		e.BodyBytes, e.BodySHA256 = v.body.n, v.body.hex()
	})
}

// note edits the journal's entry.
func (v *visit) note(edit func(*Entry)) { v.sim.journal.update(v.seq, edit) }

// json answers with a JSON value.
func (v *visit) json(status int, value any) {
	body, err := json.Marshal(value)
	if err != nil { // only values that this package made
		body, status = []byte(`{"error":{"message":"the simulator failed"}}`), http.StatusInternalServerError
	}
	v.Header().Set("Content-Type", "application/json")
	v.WriteHeader(status)
	_, _ = v.Write(body)
}

// read decodes the request's JSON body, numbers and all; an unreadable one is
// answered with 400 and false.
func (v *visit) read(into any) bool {
	body, err := v.decoded(http.MaxBytesReader(v, v.r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err == nil {
		return true
	}
	if status := http.StatusBadRequest; v.r.Context().Err() == nil {
		if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
			status = http.StatusRequestEntityTooLarge
		}
		v.json(status, v.dialect().failure(status, "invalid_request_error", "", "We could not parse the JSON body of your request."))
	}
	return false
}

// decoded reads a body, without the coding that clients use: Codex compresses its
// conversations.
func (v *visit) decoded(body io.Reader) ([]byte, error) {
	switch v.r.Header.Get("Content-Encoding") {
	case "zstd":
		d, err := zstd.NewReader(body)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		body = d
	case "gzip":
		d, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = d
	}
	return io.ReadAll(body)
}

// pause waits, and returns false if the client went away meanwhile.
func (v *visit) pause(d time.Duration) bool {
	if d <= 0 {
		return v.r.Context().Err() == nil
	}
	return sleep(v.r.Context(), d)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// query reads a parameter of the transport paths.
func (v *visit) query() url.Values { return v.r.URL.Query() }

// hostname is the Host without its port.
func hostname(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.Host); err == nil {
		return host
	}
	return r.Host
}
