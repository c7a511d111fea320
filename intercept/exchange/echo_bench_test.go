package exchange

import (
	"bufio"
	"bytes"
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
	noise := make([]byte, 1<<20)
	for i, x := 0, uint64(1); i < len(noise); i++ {
		x = x*6364136223846793005 + 1442695040888963407
		noise[i] = byte(x >> 56)
	}
	return map[string][]byte{
		"events": fill(`data: {"type":"response.output_text.delta","delta":" some words of an answer","n":12}` + "\n\n"),
		"code":   fill(`{"text":"func main() {\n\tfor i := range 10 {\n\t\tfmt.Println(\"hello\", i)\n\t}\n}\n\nMore of it is at https:\/\/caf\u00e9.example.com\/"}`),
		"binary": noise,
	}
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

// origin starts one that has this certificate.
func (a *authority) origin(b *testing.B) netip.AddrPort {
	leaf, err := a.Leaf(testHost)
	if err != nil {
		b.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	files := [2]string{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	for i, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}, {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(files[i], pem.EncodeToMemory(block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	_, said := child(b, "origin", files[:]...)
	if !said.Scan() {
		b.Fatal("the origin does not start")
	}
	return netip.MustParseAddrPort(said.Text())
}

// BenchmarkMegabyteEcho measures what looking for secrets adds to the processor time of
// the exchange with a body of 1 MiB, client and origin not counted: rounds with and
// without it take turns, and the ratio is the median of each two that follow each other.
func BenchmarkMegabyteEcho(b *testing.B) {
	account := strings.Repeat("eyJhbGciOiJSUzI1NiIsImtpZCI6Ij", 60)
	secrets := []struct {
		name  string
		value []string
	}{
		{"key", []string{"sk-proj-" + strings.Repeat("Ab3-x_Zq9Tb5", 13)}}, // as long as OpenAI's are
		{"old key", []string{"sk-" + strings.Repeat("Ab3xZq9Tb5Cu", 4)}},
		{"account", []string{account, "rt_" + account[:90]}},
	}
	names := []string{"events", "code", "binary"}
	for _, s := range secrets {
		var rounds [2]func(path string) float64
		for i := range rounds {
			lease := pool.Lease{Pool: "p", Member: "a", Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer " + echoedKey)}}}
			if i == 1 {
				var all []echo.Secret
				for _, v := range s.value {
					all = append(all, echo.Secret{Value: []byte(v), Placeholder: []byte(echoStub)})
				}
				lease.Echo = echo.New(all)
			}
			h := newBench(b, setup{elsewhere: func(a *authority) netip.AddrPort { return a.origin(b) }, change: func(o *Options) { o.Pools = &still{lease} }})
			in, said := child(b, "client", h.addr, h.ca.file)
			rounds[i] = func(path string) float64 {
				before := cpuTime()
				fmt.Fprintln(in, path)
				if !said.Scan() {
					b.Fatal("the client has ended")
				}
				return float64((cpuTime() - before).Microseconds()) / batch
			}
		}
		for _, name := range names {
			b.Run(s.name+"/"+name, func(b *testing.B) {
				var with, without, ratio []float64
				for b.Loop() {
					a, z := rounds[0](name), rounds[1](name)
					without, with, ratio = append(without, a), append(with, z), append(ratio, z/a)
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
