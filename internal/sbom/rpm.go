package sbom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"

	"github.com/whittle-build/whittle/internal/entry"
)

// rpm reads rpm's database: an SQLite file, whose table Packages has a header for each
// package. What does not fit is passed over, and told.
func (s *scanner) rpm(found string, b []byte) error {
	db, err := openSQLite(b)
	if err != nil {
		return err
	}
	root := 0
	err = db.rows(s.until, 1, 0, func(row []value) { // sqlite_schema: type, name, tbl_name, rootpage, sql
		if len(row) >= 4 && string(row[0].blob) == "table" && string(row[1].blob) == "Packages" {
			root = int(row[3].num)
		}
	})
	switch {
	case err != nil:
		return err
	case root == 0:
		return errDatabase
	}
	err = db.rows(s.until, root, 0, func(row []value) { // hnum, blob
		if len(row) < 2 || !s.rpmPackage(found, row[1].blob) {
			db.broken = true
		}
	})
	switch {
	case err != nil:
		return err
	case db.broken:
		return errBroken
	}
	if e, err := s.fs.Lstat(found + "-wal"); err == nil && e.Kind == entry.File && e.Size > 0 {
		return errors.New("is a database with changes in its -wal file, which are not read")
	}
	return nil
}

// rpmOld is for forms of the database from before SQLite.
func (s *scanner) rpmOld(string, []byte) error {
	return errors.New("is a database of rpm in an older form, which is not read")
}

// rpmPackage takes the package of a header; false when it is none.
func (s *scanner) rpmPackage(found string, b []byte) bool {
	h, ok := readHeader(b)
	if !ok {
		return false
	}
	space := s.out.System.ID
	if space == "" {
		space = "redhat"
	}
	version := h[rpmVersion]
	if h[rpmRelease] != "" {
		version += "-" + h[rpmRelease]
	}
	s.add(Package{Name: h[rpmName], Version: version, Type: "rpm", License: h[rpmLicense], Found: found,
		URL: packageURL("rpm", space, h[rpmName], version, "arch", h[rpmArch], "epoch", h[rpmEpoch], "distro", s.distro())})
	return true
}

// Tags of a header.
const (
	rpmName    = 1000
	rpmVersion = 1001
	rpmRelease = 1002
	rpmEpoch   = 1003
	rpmLicense = 1014
	rpmArch    = 1022
)

// rpmHeader has the texts of a header's tags that count here.
type rpmHeader map[uint32]string

// readHeader reads one: counts of index entries and of bytes of data, then entries of tag,
// type, offset and count (rpm.org, "Header format"), all big-endian. Of a tag the first
// entry counts.
func readHeader(b []byte) (h rpmHeader, ok bool) {
	if len(b) < 8 {
		return nil, false
	}
	n, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if n > 1<<16 || uint64(len(b)) < 8+uint64(n)*16+uint64(size) {
		return nil, false
	}
	h = rpmHeader{}
	data := b[8+n*16 : 8+n*16+size]
	for i := range n {
		e := b[8+i*16:]
		tag, kind, off := binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[8:])
		if _, twice := h[tag]; !twice && off < size {
			h.read(tag, kind, data[off:])
		}
	}
	return h, h[rpmName] != ""
}

// read takes the text of a tag from where its data begins: of several languages the first.
// No more of it is kept than add takes.
func (h rpmHeader) read(tag, kind uint32, data []byte) {
	switch tag {
	case rpmName, rpmVersion, rpmRelease, rpmLicense, rpmArch:
		if kind == 6 || kind == 9 {
			text, _, _ := bytes.Cut(data[:min(len(data), maxText+1)], []byte{0})
			h[tag] = string(text)
		}
	case rpmEpoch:
		if kind == 4 && len(data) >= 4 {
			h[tag] = strconv.FormatUint(uint64(binary.BigEndian.Uint32(data)), 10)
		}
	}
}
