package manifest

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/whittle-build/whittle/internal/digest"
)

// Verified passes on the bytes of a blob. Its reader sees io.EOF only after
// size and digest are proven, and an error in its place otherwise; what is too
// long ends at the first byte too many.
type Verified struct {
	d    Descriptor
	r    io.Reader
	h    hash.Hash
	left int64
	err  error
}

// Verify returns a reader of r that vouches for d.
func (d Descriptor) Verify(r io.Reader) *Verified {
	return &Verified{d: d, r: r, h: sha256.New(), left: d.Size}
}

// Read implements io.Reader.
func (v *Verified) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	if int64(n) > v.left {
		v.err = fmt.Errorf("blob %s: longer than the %d bytes of its descriptor", v.d.Digest.Short(), v.d.Size)
		return 0, v.err
	}
	v.h.Write(p[:n])
	v.left -= int64(n)
	if err == io.EOF {
		err = v.end()
	}
	v.err = err
	return n, err
}

func (v *Verified) end() error {
	if v.left > 0 {
		return fmt.Errorf("blob %s: %d bytes short of the %d of its descriptor: %w",
			v.d.Digest.Short(), v.left, v.d.Size, io.ErrUnexpectedEOF)
	}
	var got digest.Digest
	v.h.Sum(got[:0])
	if got != v.d.Digest {
		return fmt.Errorf("blob %s: its content has the digest %s", v.d.Digest, got)
	}
	return io.EOF
}

// Drain reads what a consumer left (one that stops at the end of a tar leaves
// the padding after it), so that the whole is verified.
func (v *Verified) Drain() error {
	_, err := io.Copy(io.Discard, v)
	return err
}

// Bytes checks a whole document.
func (d Descriptor) Bytes(b []byte) error {
	if int64(len(b)) != d.Size {
		return fmt.Errorf("blob %s: %d bytes, its descriptor says %d", d.Digest.Short(), len(b), d.Size)
	}
	if got := digest.Of(b); got != d.Digest {
		return fmt.Errorf("blob %s: its content has the digest %s", d.Digest, got)
	}
	return nil
}
