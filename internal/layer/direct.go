package layer

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A directWriter writes a file from its beginning to its end, and from begin on
// past the page cache where the file system can do that (open(2), O_DIRECT). A
// large layer that nobody reads soon then neither takes the memory of others nor
// waits for pages: on machines that are given their memory page by page, that
// takes longer than the disk.
type directWriter struct {
	f     *os.File
	tried bool
	on    bool
}

// directAlign is what memory, place and length of a direct write are multiples
// of: the largest block of disks.
const directAlign = 4096

// aligned is an empty buffer of n bytes for direct writes.
func aligned(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % directAlign)
	return b[skip : skip : skip+n]
}

// begin asks for direct writes, of which the first is at a multiple of
// directAlign.
func (w *directWriter) begin() {
	w.tried = true
	w.on = w.set(unix.O_DIRECT) == nil
}

// set replaces the flags of the open file, see fcntl(2).
func (w *directWriter) set(flags int) error {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { _, err = unix.FcntlInt(fd, unix.F_SETFL, flags) })
	return errors.Join(err, cerr)
}

// write writes all of b. What is no multiple of a block, which only the file's
// end may be, goes through the page cache, and so does everything after a file
// system has refused.
func (w *directWriter) write(b []byte) error {
	if w.on && len(b)%directAlign != 0 {
		w.on = false
		if err := w.set(0); err != nil {
			return err
		}
	}
	n, err := w.f.Write(b)
	if w.on && errors.Is(err, unix.EINVAL) {
		w.on = false
		if err = w.set(0); err == nil {
			_, err = w.f.Write(b[n:])
		}
	}
	return err
}
