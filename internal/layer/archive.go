package layer

import (
	"archive/tar"
	"bytes"
	"io"
)

// SniffArchive reads the beginning of r and says whether it is a tar, plain
// or compressed, as ADD asks of a local file.
func SniffArchive(r io.Reader) bool {
	plain, _, err := Decompress(r)
	if err != nil {
		return false
	}
	defer plain.Close()
	var block [blockSize]byte
	if _, err := io.ReadFull(plain, block[:]); err != nil {
		return false
	}
	if bytes.Equal(block[:], make([]byte, blockSize)) {
		return isEmptyTar(plain)
	}
	const maxHead = 4 << 20 // of extended headers before the first entry
	_, err = tar.NewReader(io.MultiReader(bytes.NewReader(block[:]), io.LimitReader(plain, maxHead))).Next()
	// A head that ends within the extended headers began with a good one.
	return err == nil || err == io.ErrUnexpectedEOF
}

// SniffPacked says of the beginning of a stream whether it is an archive, or is
// compressed, which nothing but an archive is here.
func SniffPacked(head []byte) bool {
	return sniff(head) != None || SniffArchive(bytes.NewReader(head))
}

// isEmptyTar is asked after one block of zeros: an archive without entries is
// two of them and nothing but zeros after.
func isEmptyTar(r io.Reader) bool {
	buf := make([]byte, 10240)
	n, err := io.ReadFull(r, buf)
	return n >= blockSize && err == io.ErrUnexpectedEOF && len(bytes.TrimLeft(buf[:n], "\x00")) == 0
}
