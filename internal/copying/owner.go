package copying

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/whittle-build/whittle/internal/entry"
)

type owner struct{ uid, gid uint32 }

// maxTable bounds /etc/passwd and /etc/group: they come from images.
const maxTable = 10 << 20

// User returns the ids that a USER or --chown value stands for: "", a name, a
// uid, name:group, uid:gid and their mixtures. Numbers are never looked up,
// and a uid alone is also the gid; a name alone brings its primary group. A
// name that to does not know is 0, an unknown group leaves the user's, and an
// empty one after a colon is 0: the reference does so, silently. An error is a table that cannot be read.
func User(to entry.FS, spec string) (uid, gid uint32, err error) {
	user, group, both := strings.Cut(spec, ":")
	var o owner
	if id, ok := parseID(user); ok {
		o = owner{id, id}
	} else if user != "" {
		fields, err := lookUp(to, "etc/passwd", user, 4)
		if err != nil {
			return 0, 0, err
		}
		if fields != nil {
			o = owner{idField(fields[2]), idField(fields[3])}
		}
	}
	if id, ok := parseID(group); ok {
		o.gid = id
	} else if both && group == "" {
		o.gid = 0
	} else if group != "" {
		fields, err := lookUp(to, "etc/group", group, 3)
		if err != nil {
			return 0, 0, err
		}
		if fields != nil {
			o.gid = idField(fields[2])
		}
	}
	return o.uid, o.gid, nil
}

// chown is User for a flag that may be absent.
func chown(to entry.FS, spec string) (*owner, error) {
	if spec == "" {
		return nil, nil
	}
	uid, gid, err := User(to, spec)
	return &owner{uid, gid}, err
}

// parseID reads a number, or root; a sign may stand before it, and a negative
// number is 0, as in the reference. The highest number is none: chown(2) takes
// it for "leave as it is".
func parseID(s string) (uint32, bool) {
	if s == "root" {
		return 0, true
	}
	if n, err := strconv.ParseInt(s, 10, 32); err == nil && n < 0 {
		return 0, true
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 32)
	return uint32(n), err == nil && n != math.MaxUint32
}

// idField reads a number of a table; what is none counts as 0.
func idField(s string) uint32 {
	n, ok := parseID(s)
	if !ok {
		return 0
	}
	return n
}

// lookUp returns the fields of the first line of a table that begins with
// name, at least want of them, or nil.
func lookUp(to entry.FS, table, name string, want int) ([]string, error) {
	text, err := readTable(to, table)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		fields := strings.Split(string(bytes.TrimSpace(line)), ":")
		if fields[0] != name {
			continue
		}
		for len(fields) < want {
			fields = append(fields, "")
		}
		return fields, nil
	}
	return nil, nil
}

// readTable reads a file of to whole. A missing one is empty; one that is not
// a regular file, or too big, is an error: it would be opened or read forever.
func readTable(to entry.FS, table string) ([]byte, error) {
	p, err := entry.Resolve(to, table, true)
	if err != nil {
		return nil, err
	}
	e, err := to.Lstat(p)
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if e.Kind != entry.File {
		return nil, &BadTable{"/" + table, fmt.Sprintf("a %s, want a regular file", e.Kind)}
	}
	if e.Size > maxTable {
		return nil, tooLong(table)
	}
	f, err := to.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTable+1))
	if err == nil && len(text) > maxTable {
		err = tooLong(table)
	}
	return text, err
}

func tooLong(table string) error {
	return &BadTable{"/" + table, fmt.Sprintf("more than %d bytes", maxTable)}
}

// NamesUser reports whether a --chown has a name, which only a table of users
// could explain.
func NamesUser(spec string) bool {
	for id := range strings.SplitSeq(spec, ":") {
		if _, ok := parseID(id); !ok && id != "" {
			return true
		}
	}
	return false
}
