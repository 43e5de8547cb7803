package sbom

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
)

var (
	errDatabase = errors.New("is not a database of rpm that can be read")
	errBroken   = errors.New("is a broken database: packages may be missing")
)

// sqlite reads tables of an SQLite database (sqlite.org/fileformat2.html) as far as rows
// go: b-tree pages of tables with their overflow. Every number in it may be a lie.
type sqlite struct {
	b        []byte
	page     int // bytes
	reserved int
	left     int  // bytes that may still be visited, those of a cell each time that it is
	broken   bool // something in it was a lie
}

// value is one column of a row.
type value struct {
	num  int64
	blob []byte // of texts and blobs
}

func openSQLite(b []byte) (*sqlite, error) {
	if len(b) < 100 || string(b[:16]) != "SQLite format 3\x00" {
		return nil, errDatabase
	}
	page := int(binary.BigEndian.Uint16(b[16:]))
	if page == 1 {
		page = 65536
	}
	if page < 512 || page&(page-1) != 0 {
		return nil, errDatabase
	}
	// A sound one is visited once: its pages, and what their cells give out. Twice that is
	// for the list of tables, which is read before.
	return &sqlite{b: b, page: page, reserved: int(b[20]), left: 4*len(b) + page}, nil
}

// at is page n, counted from 1; nil when there is none.
func (s *sqlite) at(n int) []byte {
	if n < 1 || n > len(s.b)/s.page {
		return nil
	}
	return s.b[(n-1)*s.page : n*s.page]
}

// visit pays for n bytes, and says whether there were so many left.
func (s *sqlite) visit(n int) bool {
	s.left -= n
	return s.left >= 0
}

const maxDepth = 32

// rows calls fn for each row below page n, and passes over what is broken. It ends with
// errBroken when it has visited more than a sound database has, and with the cause of ctx.
func (s *sqlite) rows(ctx context.Context, n, depth int, fn func([]value)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p := s.at(n)
	if p == nil || depth > maxDepth {
		s.broken = true
		return nil
	}
	if !s.visit(len(p)) {
		return errBroken
	}
	head := p
	if n == 1 {
		head = p[100:]
	}
	switch head[0] {
	case 5:
		for c := range s.cells(p, head, head[12:]) {
			if len(c) < 4 {
				s.broken = true
				continue
			}
			if err := s.rows(ctx, int(binary.BigEndian.Uint32(c)), depth+1, fn); err != nil {
				return err
			}
		}
		return s.rows(ctx, int(binary.BigEndian.Uint32(head[8:])), depth+1, fn)
	case 13:
		return s.leaf(ctx, s.cells(p, head, head[8:]), fn)
	}
	s.broken = true
	return nil
}

// leaf calls fn for the rows of a page.
func (s *sqlite) leaf(ctx context.Context, cells iter.Seq[[]byte], fn func([]value)) error {
	for c := range cells {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		payload := s.payload(c)
		if !s.visit(4 + len(payload)) {
			return errBroken
		}
		s.broken = s.broken || payload == nil
		fn(record(payload))
	}
	return nil
}

// cells are the parts of a page whose places are listed, from each on to its end.
func (s *sqlite) cells(page, head, list []byte) iter.Seq[[]byte] {
	n := int(binary.BigEndian.Uint16(head[3:]))
	if n > len(list)/2 {
		n, s.broken = len(list)/2, true
	}
	return func(yield func([]byte) bool) {
		for i := range n {
			at := min(int(binary.BigEndian.Uint16(list[2*i:])), len(page))
			if !yield(page[at:]) {
				return
			}
		}
	}
}

// payload is what a cell of a row holds: its length, its number, and as much as goes
// into the page; the rest is in a chain of others.
func (s *sqlite) payload(c []byte) []byte {
	size, n := varint(c)
	_, m := varint(c[n:])
	if n == 0 || m == 0 || size > uint64(len(s.b)) {
		return nil
	}
	c = c[n+m:]
	usable := s.page - s.reserved
	inside := int(size)
	if most := usable - 35; inside > most {
		least := (usable-12)*32/255 - 23
		inside = least + (int(size)-least)%(usable-4)
		if inside > most {
			inside = least
		}
	}
	if inside < 0 || inside > len(c) {
		return nil
	}
	if inside == int(size) {
		return c[:inside]
	}
	if len(c) < inside+4 {
		return nil
	}
	out := append([]byte(nil), c[:inside]...)
	for next := int(binary.BigEndian.Uint32(c[inside:])); len(out) < int(size); {
		p := s.at(next)
		if p == nil || !s.visit(len(p)) {
			return nil
		}
		next = int(binary.BigEndian.Uint32(p))
		out = append(out, p[4:4+min(usable-4, int(size)-len(out))]...)
	}
	return out
}

// maxColumns is more than the tables have that are read here.
const maxColumns = 8

// record takes a row's first columns apart.
func record(b []byte) (row []value) {
	size, n := varint(b)
	if n == 0 || size > uint64(len(b)) {
		return nil
	}
	types, data := b[n:max(n, int(size))], b[size:]
	for len(types) > 0 && len(row) < maxColumns {
		t, n := varint(types)
		if n == 0 {
			return row
		}
		types = types[n:]
		var v value
		width := 0
		switch {
		case t >= 12:
			width = int(min((t-12)/2, uint64(len(data)+1)))
		case t <= 6:
			width = [...]int{0, 1, 2, 3, 4, 6, 8}[t]
		case t == 7:
			width = 8
		case t == 9:
			v.num = 1
		}
		if width > len(data) {
			return row
		}
		if t >= 12 {
			v.blob = data[:width]
		} else {
			for i, x := range data[:width] {
				if i == 0 && x >= 0x80 {
					v.num = -1
				}
				v.num = v.num<<8 | int64(x)
			}
		}
		data = data[width:]
		row = append(row, v)
	}
	return row
}

// varint is SQLite's: big-endian, seven bits a byte, the ninth with eight.
func varint(b []byte) (v uint64, n int) {
	for n < len(b) && n < 9 {
		x := b[n]
		n++
		if n == 9 {
			return v<<8 | uint64(x), n
		}
		v = v<<7 | uint64(x&0x7f)
		if x < 0x80 {
			return v, n
		}
	}
	return 0, 0
}
