// Package compare tells what two file systems differ in, down to the first byte.
package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"unicode"
	"unicode/utf8"

	"github.com/whittle-build/whittle/internal/entry"
)

// Kinds of Difference.
const (
	OnlyFirst  = "only in the first"
	OnlySecond = "only in the second"
	Type       = "type"
	Content    = "content"
	Target     = "target" // of a symlink
	Mode       = "mode"
	Owner      = "owner"
	Attributes = "attributes"
	Links      = "hard links"
	Time       = "time"
)

// Difference is one way in which a path differs.
type Difference struct {
	Path string `json:"path"`
	Kind string `json:"kind"`
	// First and Second are what it is in each: for content what stands around the first
	// byte that differs, which is At.
	First  string `json:"first,omitempty"`
	Second string `json:"second,omitempty"`
	At     int64  `json:"at,omitempty"` // bytes
}

// Trees reports the differences of two file systems, the root's first and then in the order
// of their paths, to found, until that returns false. The time of a root counts where both
// say it of themselves: that of a layer's may be implied.
func Trees(ctx context.Context, first, second entry.FS, found func(Difference) bool) error {
	c := comparison{until: ctx, fs: [2]entry.FS{first, second}, found: found, links: [2]map[uint64]string{{}, {}}}
	err := c.roots()
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

func (c *comparison) roots() error {
	var roots [2]entry.Entry
	implied := false
	for i, f := range c.fs {
		var err error
		if roots[i], err = f.Lstat("."); err != nil {
			return err
		}
		l, ok := f.(interface{ RootImplied() bool })
		implied = implied || ok && l.RootImplied()
	}
	if implied {
		roots[0].Mtime = roots[1].Mtime
	}
	return c.both(roots[0], roots[1])
}

var errEnough = errors.New("enough")

type comparison struct {
	until context.Context
	fs    [2]entry.FS
	found func(Difference) bool
	links [2]map[uint64]string // of inodes to the first path of each
}

func (c *comparison) tell(d Difference) error {
	if !c.found(d) {
		return errEnough
	}
	return nil
}

func (c *comparison) dir(p string) error {
	if c.until.Err() != nil {
		return context.Cause(c.until)
	}
	var lists [2][]entry.Entry
	for i, f := range c.fs {
		var err error
		if lists[i], err = f.ReadDir(p); err != nil {
			return err
		}
	}
	a, b := lists[0], lists[1]
	for len(a) > 0 || len(b) > 0 {
		var err error
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Path < b[0].Path:
			err = c.tell(Difference{Path: a[0].Path, Kind: OnlyFirst, First: a[0].Kind.String()})
			a = a[1:]
		case len(a) == 0 || b[0].Path < a[0].Path:
			err = c.tell(Difference{Path: b[0].Path, Kind: OnlySecond, Second: b[0].Kind.String()})
			b = b[1:]
		default:
			err = c.both(a[0], b[0])
			a, b = a[1:], b[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// both compares what both have at a path.
func (c *comparison) both(a, b entry.Entry) error {
	if a.Kind != b.Kind {
		return c.tell(Difference{Path: a.Path, Kind: Type, First: a.Kind.String(), Second: b.Kind.String()})
	}
	if a.Kind == entry.Whiteout {
		return nil
	}
	for _, d := range []struct {
		differs       bool
		kind          string
		first, second string
	}{
		{a.Kind == entry.Symlink && a.Link != b.Link, Target, a.Link, b.Link},
		{a.Mode != b.Mode, Mode, fmt.Sprintf("%04o", a.Mode), fmt.Sprintf("%04o", b.Mode)},
		{a.UID != b.UID || a.GID != b.GID, Owner, fmt.Sprintf("%d:%d", a.UID, a.GID), fmt.Sprintf("%d:%d", b.UID, b.GID)},
		{!maps.Equal(a.Xattrs, b.Xattrs) || a.Opaque != b.Opaque || a.Major != b.Major || a.Minor != b.Minor, Attributes, "", ""},
		{a.Mtime.Sec != b.Mtime.Sec, Time, fmt.Sprint(a.Mtime.Sec), fmt.Sprint(b.Mtime.Sec)},
	} {
		if !d.differs {
			continue
		}
		if err := c.tell(Difference{Path: a.Path, Kind: d.kind, First: d.first, Second: d.second}); err != nil {
			return err
		}
	}
	switch a.Kind {
	case entry.Dir:
		return c.dir(a.Path)
	case entry.File:
		return c.file(a, b)
	}
	return nil
}

func (c *comparison) file(a, b entry.Entry) error {
	var links [2]string
	for i, e := range [2]entry.Entry{a, b} {
		if e.Inode == 0 {
			continue
		}
		first, ok := c.links[i][e.Inode]
		if !ok {
			first = e.Path
			c.links[i][e.Inode] = e.Path
		}
		links[i] = first
	}
	if links[0] != links[1] && (links[0] != a.Path && links[0] != "" || links[1] != b.Path && links[1] != "") {
		return c.tell(Difference{Path: a.Path, Kind: Links, First: links[0], Second: links[1]})
	}
	if links[0] == links[1] && links[0] != "" && links[0] != a.Path {
		return nil // was compared under its first name
	}
	d, same, err := c.content(a.Path)
	if err != nil || same {
		return err
	}
	return c.tell(d)
}

// window is how much is read at once, and around how many bytes before and after the first
// one that differs are shown.
const (
	window = 64 << 10
	around = 24
)

func (c *comparison) content(p string) (d Difference, same bool, err error) {
	var in [2]io.ReadCloser
	for i, f := range c.fs {
		if in[i], err = f.Open(p); err != nil {
			return d, false, err
		}
		defer in[i].Close()
	}
	var buf, tail [2][]byte
	for at := int64(0); ; {
		for i := range in {
			buf[i] = make([]byte, window)
			n, err := io.ReadFull(in[i], buf[i])
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return d, false, err
			}
			buf[i] = buf[i][:n]
		}
		if bytes.Equal(buf[0], buf[1]) {
			if len(buf[0]) < window {
				return d, true, nil
			}
			tail = [2][]byte{buf[0][window-around:], buf[1][window-around:]}
			at += window
			continue
		}
		n := 0
		for n < len(buf[0]) && n < len(buf[1]) && buf[0][n] == buf[1][n] {
			n++
		}
		d = Difference{Path: p, Kind: Content, At: at + int64(n)}
		d.First, d.Second = excerpt(tail[0], buf[0], n), excerpt(tail[1], buf[1], n)
		return d, false, nil
	}
}

// excerpt is what stands around the n-th byte of b, which tail came before: text as it
// is, all else in hexadecimal.
func excerpt(tail, b []byte, n int) string {
	all := append(bytes.Clone(tail), b[:min(len(b), n+around)]...)
	n += len(tail)
	from := max(0, n-around)
	if i := bytes.LastIndexByte(all[from:min(n, len(all))], '\n'); i >= 0 {
		from += i + 1 // of a text its line
	}
	part := all[min(from, len(all)):]
	if i := bytes.IndexByte(part, '\n'); i > n-from {
		part = part[:i]
	}
	if printable(part) {
		return string(part)
	}
	return fmt.Sprintf("% x", all[min(n, len(all)):min(len(all), n+12)])
}

func printable(b []byte) bool {
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size < 2 || !unicode.IsPrint(r) && r != '\t' {
			return false
		}
		b = b[size:]
	}
	return true
}
