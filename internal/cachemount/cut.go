package cachemount

import (
	"errors"
	"io"
)

// gear gives each byte a number: what counts is that they look random and
// never change (Xia et al., FastCDC, 2016).
var gear = func() (table [256]uint64) {
	x := uint64(0x77686974746c6531)
	for i := range table {
		// splitmix64
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return table
}()

// cutMask ends a piece after a megabyte, on average, beyond the least.
const cutMask = (1<<20 - 1) << 44

// cut returns where the first piece of b ends; b is at least maxPiece long, or
// the end of its file. Where that is depends on the 64 bytes before it alone,
// so that what is put in or taken out of a file changes the pieces around it
// and no others.
func cut(b []byte) int {
	if len(b) <= minPiece {
		return len(b)
	}
	var h uint64
	n := min(len(b), maxPiece)
	for i := minPiece - 64; i < n; i++ {
		h = h<<1 + gear[b[i]]
		if i >= minPiece && h&cutMask == 0 {
			return i + 1
		}
	}
	return n
}

// pieces calls fn for each piece of r, which may not keep it. buf has maxPiece
// bytes.
func pieces(r io.Reader, buf []byte, fn func([]byte) error) error {
	have, ended, first := 0, false, true
	for {
		for !ended && have < len(buf) {
			n, err := r.Read(buf[have:])
			have += n
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			ended = err != nil
		}
		if have == 0 {
			return nil
		}
		end := have
		if !first || !ended || have > whole {
			end = cut(buf[:have])
		}
		first = false
		if err := fn(buf[:end]); err != nil {
			return err
		}
		have = copy(buf, buf[end:have])
	}
}
