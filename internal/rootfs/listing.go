package rootfs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// A stamp is what stat says of a file that nobody changes unseen: its inode's
// ctime goes on with every change of content, attributes, links and names.
type stamp struct {
	Kind         entry.Kind
	Mode         uint16
	UID, GID     uint32
	Size         int64
	Ino          uint64
	Mtime, Ctime entry.Time
}

func stampOf(i *fsroot.Info) stamp {
	return stamp{i.Kind, uint16(i.Mode), i.UID, i.GID, i.Size, i.Ino, i.Mtime, i.Ctime}
}

// A listed is one file of a listing. Depth is how many folders are above its
// name: the root's is 0.
type listed struct {
	Depth uint32
	Name  string
	stamp
}

// A listing is a file with what stat said of every file of a root, folders
// before what is in them and names in order: it is written and read from its
// beginning to its end, and never in memory as a whole.
//
// A record is its length, the depth, the stamp's fields, and the name.
const recordHead = 4 + 1 + 2 + 4 + 4 + 8 + 8 + 12 + 12

// A recorder writes a listing.
type recorder struct {
	f   *os.File
	w   *bufio.Writer
	buf []byte
	noted
}

// noted is what a recorder found of all files together.
type noted struct {
	bytes int64      // each inode once or so
	last  entry.Time // of all ctimes
	fine  bool       // times have parts of a second here
}

// settle waits until the clock that files get their times of has gone on since
// the last change, or one that follows would not show. That is some
// milliseconds, and a second where a file system knows no less.
func (n *noted) settle() {
	for range 3000 {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return
		}
		t := entry.Time{Sec: now.Sec}
		if n.fine {
			t.Nsec = uint32(now.Nsec)
		}
		if later(t, n.last) || n.last.Sec > t.Sec+2 {
			return // or the clock was set back, and nothing will be as late
		}
		time.Sleep(time.Millisecond)
	}
}

func newRecorder(name string) (*recorder, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &recorder{f: f, w: bufio.NewWriterSize(f, 256<<10)}, nil
}

var le = binary.LittleEndian

func (r *recorder) put(depth uint32, name string, i *fsroot.Info) error {
	s := stampOf(i)
	b := le.AppendUint16(r.buf[:0], uint16(recordHead+len(name)))
	b = le.AppendUint32(b, depth)
	b = append(b, byte(s.Kind))
	b = le.AppendUint16(b, s.Mode)
	b = le.AppendUint32(b, s.UID)
	b = le.AppendUint32(b, s.GID)
	b = le.AppendUint64(b, uint64(s.Size))
	b = le.AppendUint64(b, s.Ino)
	for _, t := range []entry.Time{s.Mtime, s.Ctime} {
		b = le.AppendUint64(b, uint64(t.Sec))
		b = le.AppendUint32(b, t.Nsec)
	}
	r.buf = append(b, name...)
	r.bytes += s.Size / int64(max(i.Nlink, 1))
	r.fine = r.fine || s.Ctime.Nsec != 0
	if later(s.Ctime, r.last) {
		r.last = s.Ctime
	}
	_, err := r.w.Write(r.buf)
	return err
}

// all lists a root.
func (r *recorder) all(root *fsroot.Root) error {
	i, err := root.Lstat(".")
	if err != nil {
		return err
	}
	if err := r.put(0, ".", &i); err != nil {
		return err
	}
	return r.folder(root, ".", 1)
}

func (r *recorder) folder(root *fsroot.Root, dir string, depth uint32) error {
	f, err := openFolder(root, dir, depth)
	if err != nil {
		return err
	}
	defer f.close()
	for _, name := range f.names {
		i, err := f.lstat(name)
		if err != nil {
			return err
		}
		if err := r.put(depth, name, &i); err != nil {
			return err
		}
		if i.Kind != entry.Dir {
			continue
		}
		if err := r.folder(root, i.Path, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// A folder is a directory of a root that is walked.
type folder struct {
	root  *fsroot.Root
	own   *fsroot.Root // nil in those that lie deep: they may be more than files can be open
	dir   string
	depth uint32 // of the names
	names []string
}

const maxHeld = 64

func openFolder(root *fsroot.Root, dir string, depth uint32) (*folder, error) {
	f := &folder{root: root, dir: dir, depth: depth}
	var err error
	if depth <= maxHeld {
		if f.own, err = root.Sub(dir); err != nil {
			return nil, err
		}
		if f.names, err = f.own.ReadDir("."); err != nil {
			f.close()
		}
		return f, err
	}
	f.names, err = root.ReadDir(dir)
	return f, err
}

func (f *folder) close() {
	if f.own != nil {
		f.own.Close()
	}
}

// maxPath is PATH_MAX without its NUL: what a layer can name.
const maxPath = 4095

// lstat describes a name of the directory, by its path in the root.
func (f *folder) lstat(name string) (i fsroot.Info, err error) {
	path := entry.Join(f.dir, name)
	if len(path) > maxPath {
		return i, &LeftoverError{path[:64] + "…", fmt.Sprintf("a path of %d bytes, longer than a layer can have", len(path)),
			"remove what is so deep at the end of the RUN"}
	}
	if f.own == nil {
		return f.root.Lstat(path)
	}
	i, err = f.own.Lstat(name)
	i.Path = path
	return i, err
}

func later(a, b entry.Time) bool {
	return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec
}

func (r *recorder) close() error { return errors.Join(r.w.Flush(), r.f.Close()) }

// A replay reads a listing. The record that it is at is at; at.Depth is none
// when there are no more.
type replay struct {
	f  *os.File
	r  *bufio.Reader
	at listed
	b  []byte
}

const none = ^uint32(0)

func openListing(name string) (*replay, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	r := &replay{f: f, r: bufio.NewReaderSize(f, 256<<10)}
	if err := r.next(); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

func (r *replay) next() error {
	var head [2]byte
	if _, err := io.ReadFull(r.r, head[:]); err == io.EOF {
		r.at = listed{Depth: none}
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", r.f.Name(), err)
	}
	n := int(le.Uint16(head[:]))
	if cap(r.b) < n {
		r.b = make([]byte, n)
	}
	b := r.b[:n]
	if _, err := io.ReadFull(r.r, b); err != nil || n < recordHead {
		return fmt.Errorf("%s: damaged: %w", r.f.Name(), err)
	}
	when := func(b []byte) entry.Time { return entry.Time{Sec: int64(le.Uint64(b)), Nsec: le.Uint32(b[8:])} }
	r.at = listed{le.Uint32(b), string(b[recordHead:]), stamp{
		entry.Kind(b[4]), le.Uint16(b[5:]), le.Uint32(b[7:]), le.Uint32(b[11:]),
		int64(le.Uint64(b[15:])), le.Uint64(b[23:]), when(b[31:]), when(b[43:]),
	}}
	return nil
}

// skip goes past what is below a folder of that depth.
func (r *replay) skip(depth uint32) error {
	for r.at.Depth != none && r.at.Depth > depth {
		if err := r.next(); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) close() error { return r.f.Close() }
