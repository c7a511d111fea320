package exchange

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/sluice-proxy/sluice/pool"
)

// decodeAnswer is what an answer is judged by.
func decodeAnswer(raw []byte, encoding string) []byte {
	return decode(raw, encoding, pool.MaxAnswerBody)
}

// decode undoes a body's content coding as far as it goes: raw may be cut
// off, and a bomb is cut off at limit bytes. A coding that is not known,
// or more than one, gives nothing to judge by.
func decode(raw []byte, encoding string, limit int) []byte {
	var r io.Reader
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return raw[:min(len(raw), limit)]
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(bytes.NewReader(raw))
	case "deflate":
		// RFC 9110 section 8.4.1.2 means zlib; some servers send bare deflate.
		if r, err = zlib.NewReader(bytes.NewReader(raw)); err != nil {
			r, err = flate.NewReader(bytes.NewReader(raw)), nil
		}
	case "br":
		r = brotli.NewReader(bytes.NewReader(raw))
	case "zstd":
		var d *zstd.Decoder
		d, err = zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8<<20))
		if err == nil {
			defer d.Close()
			r = d
		}
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	// An error at the cut-off end leaves what came before it.
	body, _ := io.ReadAll(io.LimitReader(r, int64(limit)))
	return body
}
