package sbom

import (
	"encoding/binary"
	"errors"
)

var errDatabase = errors.New("not a database of rpm")

// sqlite reads tables of an SQLite database (sqlite.org/fileformat2.html) as far as rows
// go: b-tree pages of tables with their overflow. Every number in it may be a lie.
type sqlite struct {
	b        []byte
	page     int // bytes
	reserved int
	left     int // pages that may still be visited
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
	return &sqlite{b: b, page: page, reserved: int(b[20]), left: 2 * len(b) / page}, nil
}

// at is page n, counted from 1; nil when there is none.
func (s *sqlite) at(n int) []byte {
	if n < 1 || n > len(s.b)/s.page {
		return nil
	}
	return s.b[(n-1)*s.page : n*s.page]
}

const maxDepth = 32

// rows calls fn for each row below page n.
func (s *sqlite) rows(n, depth int, fn func([]value)) {
	p := s.at(n)
	if s.left--; p == nil || depth > maxDepth || s.left < 0 {
		return
	}
	head := p
	if n == 1 {
		head = p[100:]
	}
	cells := int(binary.BigEndian.Uint16(head[3:]))
	switch head[0] {
	case 5: // of other pages
		for i := range cells {
			if c := cell(p, head[12:], i); len(c) >= 4 {
				s.rows(int(binary.BigEndian.Uint32(c)), depth+1, fn)
			}
		}
		s.rows(int(binary.BigEndian.Uint32(head[8:])), depth+1, fn)
	case 13: // of rows
		for i := range cells {
			if payload := s.payload(cell(p, head[8:], i)); payload != nil {
				fn(record(payload))
			}
		}
	}
}

// cell is the i-th of those whose places are listed.
func cell(page, list []byte, i int) []byte {
	if 2*i+2 > len(list) {
		return nil
	}
	at := int(binary.BigEndian.Uint16(list[2*i:]))
	if at >= len(page) {
		return nil
	}
	return page[at:]
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
	out := append([]byte(nil), c[:inside]...)
	if len(out) == int(size) {
		return out
	}
	if len(c) < inside+4 {
		return nil
	}
	for next := int(binary.BigEndian.Uint32(c[inside:])); len(out) < int(size); {
		p := s.at(next)
		if s.left--; p == nil || s.left < 0 {
			return nil
		}
		next = int(binary.BigEndian.Uint32(p))
		out = append(out, p[4:4+min(usable-4, int(size)-len(out))]...)
	}
	return out
}

// record takes a row's columns apart.
func record(b []byte) (row []value) {
	size, n := varint(b)
	if n == 0 || size > uint64(len(b)) {
		return nil
	}
	types, data := b[n:max(n, int(size))], b[size:]
	for len(types) > 0 {
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
