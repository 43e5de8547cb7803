package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
)

// extents holds the content of files that a tar keeps in pieces (sparse
// files), so that no block of the tar is a block of the file. It goes into
// the index itself, in chunks, of which those that are all zero take no
// place.
type extents struct {
	f      *os.File   // an unnamed temporary file
	chunks [][]uint32 // for each file its chunks' first blocks, from base on
	blocks int64
	base   int64
	read   int64
}

const (
	extentBits = 7 // chunks of 64 KiB
	extentSize = blockSize << extentBits
	// maxSparse bounds the content of all sparse files of a tar: a few bytes
	// of a tar can speak of any number of zeros, and all of them are read.
	maxSparse = 64 << 30
)

// newExtents keeps its content in dir until it is closed.
func newExtents(dir string) (*extents, error) {
	f, err := os.CreateTemp(dir, "sparse")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return &extents{f: f}, nil
}

func (x *extents) close() error { return x.f.Close() }

// add reads a file's content and returns its number.
func (x *extents) add(ctx context.Context, r io.Reader, size int64) (int64, error) {
	if x.read += size; x.read > maxSparse {
		return 0, fmt.Errorf("sparse files of %d bytes: %w", x.read, ErrBound)
	}
	buf, zero := make([]byte, extentSize), make([]byte, extentSize)
	var list []uint32
	for size > 0 {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		clear(buf)
		n, err := io.ReadFull(r, buf[:min(size, extentSize)])
		if err != nil {
			return 0, err
		}
		size -= int64(n)
		if bytes.Equal(buf, zero) {
			list = append(list, noBlock)
			continue
		}
		list = append(list, uint32(x.blocks))
		if x.blocks += extentSize / blockSize; x.blocks >= noBlock {
			return 0, fmt.Errorf("sparse files of %d bytes: %w", x.read, ErrBound)
		}
		if _, err := x.f.Write(buf); err != nil {
			return 0, err
		}
	}
	x.chunks = append(x.chunks, list)
	return int64(len(x.chunks) - 1), nil
}

// copyOf is add for content that is known to be harmless.
func (x *extents) copyOf(c *content) (int64, error) {
	return x.add(context.Background(), c.SectionReader, c.size)
}

func (x *extents) copyTo(w io.Writer) (int64, error) {
	if _, err := x.f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	return io.Copy(w, io.LimitReader(x.f, x.blocks*blockSize))
}
