package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/xi2/xz"
)

// The compressions that are written; Decompress reads these, bzip2 and xz.
const (
	None = "none"
	Gzip = "gzip"
	Zstd = "zstd"
)

// Compress copies r to w. level 0 is the algorithm's default; gzip has levels
// 1 to 9, zstd 1 to 22 as the zstd program counts them. The same bytes give
// the same result whatever the number of processors.
func Compress(w io.Writer, r io.Reader, alg string, level int) error {
	c, err := compressor(w, alg, level)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(onlyWriter{c}, r, make([]byte, 1<<20)); err != nil {
		c.Close()
		return err
	}
	return c.Close()
}

type onlyWriter struct{ io.Writer }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func compressor(w io.Writer, alg string, level int) (io.WriteCloser, error) {
	switch alg {
	case None:
		return nopCloser{w}, nil
	case Gzip:
		if level == 0 {
			level = gzip.DefaultCompression
		}
		return pgzip.NewWriterLevel(w, level)
	case Zstd:
		speed := zstd.SpeedDefault
		if level != 0 {
			speed = zstd.EncoderLevelFromZstd(level)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(speed))
	}
	return nil, fmt.Errorf("compression %q: want gzip, zstd or none", alg)
}

var magics = []struct {
	alg   string
	magic string
}{
	{Gzip, "\x1f\x8b\x08"},
	{Zstd, "\x28\xb5\x2f\xfd"},
	{"bzip2", "BZh"},
	{"xz", "\xfd7zXZ\x00"},
}

// skippable frames may come before the first data of a zstd stream: 16 magic
// numbers from 0x184d2a50 on.
func isZstdSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// sniff names the compression by a stream's first bytes.
func sniff(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.alg
		}
	}
	if isZstdSkippable(head) {
		return Zstd
	}
	return None
}

// maxWindow bounds the memory that a compressed stream can ask for.
const maxWindow = 256 << 20

// Decompress finds out by its content how r is compressed and returns the
// plain stream with the compression's name. The caller closes it; r is left
// to the caller, and more of it than needed may have been read.
func Decompress(r io.Reader) (io.ReadCloser, string, error) {
	return decompress(bufio.NewReaderSize(r, 256<<10))
}

func decompress(br *bufio.Reader) (io.ReadCloser, string, error) {
	head, err := br.Peek(32)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	alg := sniff(head)
	plain, err := decompressor(br, alg)
	if err != nil {
		return nil, "", fmt.Errorf("%s stream: %w", alg, err)
	}
	return plain, alg, nil
}

// An opener begins to decompress r; with ctx that ends.
type opener func(ctx context.Context, r io.Reader) (io.ReadCloser, error)

// byLibrary is Decompress.
func byLibrary(_ context.Context, r io.Reader) (io.ReadCloser, error) {
	plain, _, err := Decompress(r)
	return plain, err
}

// byProgram is Decompress for a stream of which it is known what has to come out: programs
// are not as strict about what follows its end.
func byProgram(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, worthProgram)
	if all, err := br.Peek(worthProgram); err == nil && sniff(all) == Gzip {
		if name := gunzipper(); name != "" {
			if p, err := startGunzip(ctx, name, br); err == nil {
				return p, nil
			}
		}
	}
	plain, _, err := decompress(br)
	return plain, err
}

func decompressor(br *bufio.Reader, alg string) (io.ReadCloser, error) {
	switch alg {
	case Gzip:
		return gzip.NewReader(br)
	case Zstd:
		d, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(br)), nil
	case "xz":
		return newXzReader(br)
	}
	return io.NopCloser(br), nil
}

// maxDict is the largest dictionary of an xz stream that is taken: xz -9 makes
// one of 64 MiB, the format allows 4 GiB.
const maxDict = 256 << 20

// An xzReader says in our words that a dictionary is over the bound.
type xzReader struct{ *xz.Reader }

func newXzReader(r io.Reader) (io.ReadCloser, error) {
	x, err := xz.NewReader(r, maxDict)
	if err != nil {
		return nil, xzError(err)
	}
	return io.NopCloser(xzReader{x}), nil
}

func (r xzReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	return n, xzError(err)
}

func xzError(err error) error {
	if err == xz.ErrMemlimit {
		return fmt.Errorf("xz dictionary: %w", ErrBound)
	}
	return err
}
