package exchange

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/echo"
)

// asChild has this binary be the client or the origin of a benchmark: in processes of
// their own they do not count as the exchange's.
const asChild = "SLUICE_BENCH_CHILD"

// batch is how many requests a child sends when it is told to.
const batch = 8

// megabytes are answers of 1 MiB, by what agents get: events, JSON in which much is
// escaped, and what has no text in it.
func megabytes() map[string][]byte {
	fill := func(line string) []byte { return bytes.Repeat([]byte(line), 1<<20/len(line)+1)[:1<<20] }
	return map[string][]byte{
		"events": fill(`data: {"type":"response.output_text.delta","delta":" some words of an answer","n":12}` + "\n\n"),
		"code":   fill(`{"text":"func main() {\n\tfor i := range 10 {\n\t\tfmt.Println(\"hello\", i)\n\t}\n}\n\nMore of it is at https:\/\/caf\u00e9.example.com\/"}`),
		"binary": noise(1 << 20),
	}
}

// noise is n bytes without any order, the same ones each time.
func noise(n int) []byte {
	out := make([]byte, n)
	for i, x := 0, uint64(1); i < n; i++ {
		x = x*6364136223846793005 + 1442695040888963407
		out[i] = byte(x >> 56)
	}
	return out
}

// TestMain is the entry of the benchmark's children, too.
func TestMain(m *testing.M) {
	switch os.Getenv(asChild) {
	case "origin":
		childOrigin(os.Args[1], os.Args[2])
	case "client":
		childClient(os.Args[1], os.Args[2])
	default:
		verifyMain(m)
	}
}

// childOrigin answers each request on any connection with the body that its path names. It
// ends with its standard input.
func childOrigin(cert, key string) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		panic(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	bodies := megabytes()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				for r := bufio.NewReader(c); ; {
					head, err := readRequest(r)
					if err != nil {
						return
					}
					body := bodies[strings.TrimPrefix(strings.Fields(head)[1], "/")]
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", len(body))
					_, _ = c.Write(body)
				}
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// childClient sends a batch of requests for each path that it reads, on one connection.
func childClient(addr, ca string) {
	roots := x509.NewCertPool()
	text, err := os.ReadFile(ca)
	if err != nil || !roots.AppendCertsFromPEM(text) {
		panic(err)
	}
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: testHost, NextProtos: []string{"http/1.1"}})
	if err != nil {
		panic(err)
	}
	r := bufio.NewReaderSize(c, 64<<10)
	for paths := bufio.NewScanner(os.Stdin); paths.Scan(); {
		for range batch {
			fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n", paths.Text())
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				panic(err)
			}
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 1<<20 {
				panic(fmt.Sprint(n, err))
			}
		}
		fmt.Println("done")
	}
}

// child starts one, which ends with the benchmark.
func child(b *testing.B, role string, args ...string) (io.Writer, *bufio.Scanner) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asChild+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return in, bufio.NewScanner(out)
}

// pairFiles writes a certificate for the host and its key to files.
func (a *authority) pairFiles(t testing.TB) (cert, key string) {
	leaf, err := a.Leaf(testHost)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// origin starts one that has this certificate.
func (a *authority) origin(b *testing.B) netip.AddrPort {
	cert, key := a.pairFiles(b)
	_, said := child(b, "origin", cert, key)
	if !said.Scan() {
		b.Fatal("the origin does not start")
	}
	return netip.MustParseAddrPort(said.Text())
}

// guarded is a pool whose member has secrets to be looked for in every other round.
type guarded struct {
	still
	on   atomic.Bool
	echo *echo.Matcher
}

func (g *guarded) Acquire(context.Context, pool.Route, []string) (pool.Lease, error) {
	lease := g.lease
	if g.on.Load() {
		lease.Echo = g.echo
	}
	return lease, nil
}

// BenchmarkMegabyteEcho measures what looking for secrets adds to the processor time of
// the exchange with a body of 1 MiB, client and origin not counted. Rounds with and without
// it take turns on the same connections, either first, since two processes that do the same
// may well differ by more than what is measured; the ratio is the median of each two.
func BenchmarkMegabyteEcho(b *testing.B) {
	random := func(n int) string { // as providers make them: nothing in it is there twice
		text := make([]byte, n)
		for i, x := range noise(n) {
			text[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[x&63]
		}
		return string(text)
	}
	secrets := []struct {
		name  string
		value []string
	}{
		{"key", []string{"sk-proj-" + random(156)}}, // as long as OpenAI's are
		{"old key", []string{"sk-" + random(48)}},
		{"account", []string{"eyJhbGciOiJSUzI1NiIsImtpZCI6Ij" + random(1770), "rt_" + random(90)}},
	}
	names := []string{"events", "code", "binary"}
	pools := &guarded{still: still{pool.Lease{Pool: "p", Member: "a", Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer " + echoedKey)}}}}}
	h := newBench(b, setup{elsewhere: func(a *authority) netip.AddrPort { return a.origin(b) }, change: func(o *Options) { o.Pools = pools }})
	in, said := child(b, "client", h.addr, h.ca.file)
	round := func(path string, on bool) float64 {
		pools.on.Store(on)
		before := cpuTime()
		fmt.Fprintln(in, path)
		if !said.Scan() {
			b.Fatal("the client has ended")
		}
		return float64((cpuTime() - before).Microseconds()) / batch
	}
	for _, s := range secrets {
		var all []echo.Secret
		for _, v := range s.value {
			all = append(all, echo.Secret{Value: []byte(v), Placeholder: []byte(echoStub)})
		}
		pools.echo = echo.New(all) // nothing is under way
		for _, name := range names {
			b.Run(s.name+"/"+name, func(b *testing.B) {
				var with, without, ratio []float64
				for first := false; b.Loop(); first = !first {
					var took [2]float64
					for _, on := range [...]bool{first, !first} {
						took[map[bool]int{true: 1}[on]] = round(name, on)
					}
					without, with, ratio = append(without, took[0]), append(with, took[1]), append(ratio, took[1]/took[0])
				}
				b.ReportMetric(median(without), "cpu-us/without")
				b.ReportMetric(median(with), "cpu-us/with")
				b.ReportMetric(median(ratio), "ratio")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
