package exchange

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"

	"github.com/sluice-proxy/sluice/pool"
	"github.com/sluice-proxy/sluice/pool/echo"
)

// BenchmarkMegabyteEcho measures what looking for secrets adds to an exchange with a body of
// 1 MiB: rounds with and without it take turns, and the ratio is of their medians.
func BenchmarkMegabyteEcho(b *testing.B) {
	body := bytes.Repeat([]byte(`{"type":"response.output_text.delta","delta":" some words of an answer","n":12}`+"\n"), 14000)[:1<<20]
	origin := func(_ int, c net.Conn) {
		defer c.Close()
		for r := bufio.NewReader(c); ; {
			if _, err := readRequest(r); err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", len(body))
			if _, err := c.Write(body); err != nil {
				return
			}
		}
	}
	var rounds [2]func() float64
	for i := range rounds {
		lease := pool.Lease{Pool: "p", Member: "a", Inject: []pool.Field{{Name: "authorization", Value: []byte("Bearer " + echoedKey)}}}
		if i == 1 {
			lease.Echo = echo.New([]echo.Secret{{Value: []byte(echoedKey), Placeholder: []byte(echoStub)}})
		}
		c := newBench(b, setup{raw: origin, change: func(o *Options) { o.Pools = &still{lease} }}).dial("http/1.1")
		r, block := bufio.NewReaderSize(c, 64<<10), make([]byte, 64<<10)
		rounds[i] = func() float64 {
			before := cpuTime()
			for range 16 {
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n")
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, block); err != nil || n != int64(len(body)) {
					b.Fatal(n, err)
				}
			}
			return float64((cpuTime() - before).Microseconds()) / 16
		}
	}
	var took [2][]float64
	for b.Loop() {
		for i, round := range rounds {
			took[i] = append(took[i], round())
		}
	}
	without, with := median(took[0]), median(took[1])
	b.ReportMetric(without, "cpu-us/without")
	b.ReportMetric(with, "cpu-us/with")
	b.ReportMetric(with/without, "ratio")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
