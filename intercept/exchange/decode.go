package exchange

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/sluice-proxy/sluice/pool"
)

var errCoding = errors.New("content coding is not known")

// coding is a Content-Encoding's name, "" for none (RFC 9110 section 8.4.1).
func coding(encoding string) string {
	switch c := strings.ToLower(strings.TrimSpace(encoding)); c {
	case "identity":
		return ""
	case "x-gzip":
		return "gzip"
	default:
		return c
	}
}

func knownCoding(encoding string) bool {
	switch coding(encoding) {
	case "gzip", "deflate", "br", "zstd":
		return true
	}
	return false
}

// seenThrough says whether an Accept-Encoding asks for nothing that cannot be undone here (RFC 9110
// section 12.5.3): in anything else nobody could look for the secrets of the lease.
func seenThrough(accept []byte) bool {
	for len(accept) > 0 {
		var item []byte
		if item, accept = listItem(accept); !codingSeenThrough(item) {
			return false
		}
	}
	return true
}

// codingsSeenThrough is what is left of an Accept-Encoding, "" if nothing is. It is no longer than that was, on
// which requestSize counts.
func codingsSeenThrough(accept []byte) string {
	var left []string
	longest := len(accept)
	for len(accept) > 0 {
		var item []byte
		if item, accept = listItem(accept); len(item) > 0 && codingSeenThrough(item) {
			left = append(left, string(item))
		}
	}
	if all := strings.Join(left, ", "); len(all) <= longest {
		return all
	}
	return strings.Join(left, ",")
}

// codingSeenThrough looks at one element, with its weight.
func codingSeenThrough(item []byte) bool {
	name, _, _ := bytes.Cut(item, []byte(";"))
	name = bytes.TrimRight(name, " \t")
	for _, known := range []string{"", "gzip", "br", "deflate", "zstd", "identity", "x-gzip"} {
		if equalFold(name, known) {
			return true
		}
	}
	return false
}

// decoder undoes a content coding. done frees what it holds.
func decoder(r io.Reader, encoding string) (_ io.Reader, done func(), err error) {
	done = func() {}
	switch coding(encoding) {
	case "":
		return r, done, nil
	case "gzip":
		m := &gzipMembers{in: byBytes(r)}
		m.out, err = gzip.NewReader(m.in)
		if err == nil {
			m.out.Multistream(false)
		}
		r = m
	case "deflate":
		// RFC 9110 means zlib; some servers send bare deflate. The first two bytes of
		// zlib are a multiple of 31 (RFC 1950 section 2.2).
		in, head := byBytes(r), make([]byte, 2)
		n, _ := io.ReadFull(in, head)
		in = &begun{head[:n], in}
		if n == 2 && head[0]&0xf == 8 && (uint(head[0])<<8|uint(head[1]))%31 == 0 {
			r, err = zlib.NewReader(in)
		} else {
			r = flate.NewReader(in)
		}
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8<<20))
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	default:
		return nil, nil, errCoding
	}
	return r, done, err
}

// byBytes is what inflaters read from: of another reader they would take more than they need.
func byBytes(r io.Reader) flate.Reader {
	if in, ok := r.(flate.Reader); ok {
		return in
	}
	return bufio.NewReader(r)
}

// begun is a reader of which the first bytes have been read.
type begun struct {
	head []byte
	flate.Reader
}

// Read implements [io.Reader].
func (b *begun) Read(p []byte) (int, error) {
	if len(b.head) == 0 {
		return b.Reader.Read(p)
	}
	n := copy(p, b.head)
	b.head = b.head[n:]
	return n, nil
}

// ReadByte implements [io.ByteReader].
func (b *begun) ReadByte() (byte, error) {
	if len(b.head) == 0 {
		return b.Reader.ReadByte()
	}
	c := b.head[0]
	b.head = b.head[1:]
	return c, nil
}

// gzipMembers reads one member after the other (RFC 1952 section 2.2), and does not ask
// for the next one before the last one's bytes are taken.
type gzipMembers struct {
	in  flate.Reader
	out *gzip.Reader
}

// Read implements [io.Reader].
func (m *gzipMembers) Read(p []byte) (int, error) {
	for {
		n, err := m.out.Read(p)
		if err != io.EOF {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		if err := m.out.Reset(m.in); err != nil {
			return 0, err
		}
		m.out.Multistream(false)
	}
}

// decodeAnswer is what an answer is judged by: the body undone, or as it came where that is not in the coding that it
// claims, or the coding is none, such as "utf-8".
func decodeAnswer(raw []byte, encoding string) []byte {
	if body := decode(raw, encoding, pool.MaxAnswerBody); len(body) > 0 {
		return body
	}
	return raw[:min(len(raw), pool.MaxAnswerBody)]
}

// decode undoes a body's content coding as far as it goes: raw may be cut
// off, and a bomb is cut off at limit bytes. Of a coding that is not known,
// or more than one, it makes nothing.
func decode(raw []byte, encoding string, limit int) []byte {
	if coding(encoding) == "" {
		return raw[:min(len(raw), limit)]
	}
	r, done, err := decoder(bytes.NewReader(raw), encoding)
	if err != nil {
		return nil
	}
	defer done()
	// An error at the cut-off end leaves what came before it.
	body, _ := io.ReadAll(io.LimitReader(r, int64(limit)))
	return body
}
