package exchange

import (
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool/echo"
)

// TestAnUnpackerEnds wherever the body does: decoders ask again for what they were told there is no more of.
func TestAnUnpackerEnds(t *testing.T) {
	t.Parallel()
	m := echo.New([]echo.Secret{{Value: []byte(echoedKey), Placeholder: []byte(echoStub)}})
	for _, name := range []string{"gzip", "br", "zstd", "deflate"} {
		packed := compressed(name, "data: some words of an answer\n\n")
		for n := range len(packed) {
			u := newUnpacker(m, name, nil)
			u.see([]byte(packed[:n]))
			over := make(chan struct{})
			go func() { u.close(); close(over) }()
			select {
			case <-over:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s does not end after %d bytes", name, n)
			}
		}
	}
}
