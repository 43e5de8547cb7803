package sbom

import (
	"encoding/binary"
	"strconv"
)

// rpm reads rpm's database: an SQLite file, whose table Packages has a header for each
// package. What does not fit is passed over.
func (s *scanner) rpm(found string, b []byte) {
	db, err := openSQLite(b)
	if err != nil {
		return
	}
	root := 0
	db.rows(1, 0, func(row []value) { // sqlite_schema: type, name, tbl_name, rootpage, sql
		if len(row) >= 4 && string(row[0].blob) == "table" && string(row[1].blob) == "Packages" {
			root = int(row[3].num)
		}
	})
	space := s.out.System.ID
	if space == "" {
		space = "redhat"
	}
	db.rows(root, 0, func(row []value) { // hnum, blob
		if len(row) < 2 {
			return
		}
		h := rpmHeader(row[1].blob)
		version := h[1001]
		if h[1002] != "" {
			version += "-" + h[1002]
		}
		s.add(Package{Name: h[1000], Version: version, Type: "rpm", License: h[1014], Found: found,
			URL: packageURL("rpm", space, h[1000], version, "arch", h[1022], "epoch", h[1003], "distro", s.distro())})
	})
}

// rpmHeader reads the texts of a header: counts of index entries and of bytes of data, then
// entries of tag, type, offset and count (rpm.org, "Header format"), all big-endian.
func rpmHeader(b []byte) map[uint32]string {
	out := map[uint32]string{}
	if len(b) < 8 {
		return out
	}
	n, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if n > 1<<16 || uint64(len(b)) < 8+uint64(n)*16+uint64(size) {
		return out
	}
	data := b[8+n*16 : 8+n*16+size]
	for i := range n {
		e := b[8+i*16:]
		tag, kind, off := binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[8:])
		if off >= size {
			continue
		}
		switch kind {
		case 6, 9: // a text, or one for each language: the first
			end := off
			for end < size && data[end] != 0 {
				end++
			}
			out[tag] = string(data[off:end])
		case 4:
			if off+4 <= size && tag == 1003 { // the epoch
				out[tag] = strconv.FormatUint(uint64(binary.BigEndian.Uint32(data[off:])), 10)
			}
		}
	}
	return out
}
