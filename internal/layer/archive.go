package layer

import (
	"archive/tar"
	"bytes"
	"io"
)

// SniffArchive reads the beginning of r and says whether it is a tar with an
// entry, plain or compressed, as ADD asks of a local file.
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
	const maxHead = 4 << 20 // of extended headers before the first entry
	_, err = tar.NewReader(io.MultiReader(bytes.NewReader(block[:]), io.LimitReader(plain, maxHead))).Next()
	// A head that ends within the extended headers began with a good one.
	return err == nil || err == io.ErrUnexpectedEOF
}

// SniffPacked says of the beginning of a stream whether it is an archive, or is
// compressed, which nothing but an archive is here. One without entries counts.
func SniffPacked(head []byte) bool {
	empty := len(head) >= 2*blockSize && len(bytes.Trim(head, "\x00")) == 0
	return empty || sniff(head) != None || SniffArchive(bytes.NewReader(head))
}
