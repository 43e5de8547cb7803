package layer

import "archive/tar"

// Places in a USTAR header (pax(1), "ustar Interchange Format").
const (
	headMode  = 100
	headUID   = 108
	headGID   = 116
	headSize  = 124
	headMtime = 136
	headSum   = 148
	headType  = 156
	headLink  = 157
	headMagic = 257
	headMajor = 329
	headMinor = 337

	headText = 100 // bytes of a name and of a link
)

// plainHeader fills head as archive/tar would, in a tenth of its time, where
// one plain USTAR block says all of h. Else it is false, and head is worthless.
func plainHeader(head *[blockSize]byte, h *tar.Header) bool {
	if len(h.PAXRecords) > 0 || !plainText(h.Name) || !plainText(h.Linkname) {
		return false
	}
	clear(head[:])
	copy(head[:], h.Name)
	copy(head[headLink:], h.Linkname)
	copy(head[headMagic:], "ustar\x0000")
	head[headType] = h.Typeflag
	ok := octal(head[headMode:headUID], h.Mode) &&
		octal(head[headUID:headGID], int64(h.Uid)) &&
		octal(head[headGID:headSize], int64(h.Gid)) &&
		octal(head[headSize:headMtime], h.Size) &&
		octal(head[headMtime:headSum], h.ModTime.Unix()) &&
		octal(head[headMajor:headMinor], h.Devmajor) &&
		octal(head[headMinor:headMinor+8], h.Devminor)
	sum := int64(8 * ' ') // the checksum counts as blanks
	for _, c := range head {
		sum += int64(c)
	}
	head[headSum+7] = ' '
	return octal(head[headSum:headSum+7], sum) && ok
}

// plainText reports what fits a field for text, of which the reader needs no
// NUL at the end.
func plainText(s string) bool {
	if len(s) > headText {
		return false
	}
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == 0 {
			return false
		}
	}
	return true
}

// octal fills field with digits and a NUL, if n fits.
func octal(field []byte, n int64) bool {
	if n < 0 {
		return false
	}
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
	return n == 0
}
