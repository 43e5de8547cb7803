package copying

import (
	"strconv"
	"strings"
)

// A mode is a parsed --chmod: nothing, an absolute mode, or clauses that
// change one.
type mode struct {
	octal   bool
	bits    uint32
	clauses []clause
}

// A clause is one operator of a symbolic mode and what follows it.
type clause struct {
	who    uint32 // permission bits of the classes that change
	op     byte   // one of +-=
	set    uint32 // permissions named by letter, of all classes
	x      bool   // X: execute, for directories and what has an execute bit
	copies string // classes whose permissions are taken: letters of ugo
}

const (
	setUID = 0o4000
	setGID = 0o2000
	sticky = 0o1000
	userX  = 0o700
	groupX = 0o070
	otherX = 0o007
)

// parseMode reads the octal form, and the symbolic form of chmod(1) without a
// umask: [ugoa]*([-+=]([rwxXst]|[ugo])*)+ with commas between.
func parseMode(s string) (mode, error) {
	if s == "" {
		return mode{}, nil
	}
	if s[0] >= '0' && s[0] <= '9' {
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n > 0o7777 {
			return mode{}, &BadMode{Mode: s}
		}
		return mode{octal: true, bits: uint32(n)}, nil
	}
	var m mode
	for part := range strings.SplitSeq(s, ",") {
		cs, ok := parseClauses(part)
		if !ok {
			return mode{}, &BadMode{Mode: s}
		}
		m.clauses = append(m.clauses, cs...)
	}
	return m, nil
}

// parseClauses reads what stands between two commas: classes, then one or
// more operators with their permissions.
func parseClauses(s string) ([]clause, bool) {
	classes := s[:len(s)-len(strings.TrimLeft(s, "ugoa"))]
	s = s[len(classes):]
	if s == "" {
		return nil, false
	}
	var out []clause
	for s != "" {
		if !strings.ContainsRune("+-=", rune(s[0])) {
			return nil, false
		}
		c := clause{op: s[0], who: whoBits(classes)}
		perms := s[1:]
		if end := strings.IndexAny(perms, "+-="); end >= 0 {
			perms = perms[:end]
		}
		if !c.perms(perms, classes) {
			return nil, false
		}
		out = append(out, c)
		s = s[1+len(perms):]
	}
	return out, true
}

// perms reads the letters after an operator.
func (c *clause) perms(s, classes string) bool {
	onlyOther := classes != "" && strings.Trim(classes, "o") == ""
	for _, l := range s {
		switch l {
		case 'r':
			c.set |= 0o444
		case 'w':
			c.set |= 0o222
		case 'x':
			c.set |= 0o111
		case 'X':
			c.x = true
		case 's':
			c.set |= setUID | setGID
		case 't':
			if !onlyOther {
				c.set |= sticky
				c.who |= sticky
			}
		case 'u', 'g', 'o':
			c.copies += string(l)
		default:
			return false
		}
	}
	return true
}

// whoBits returns the bits that classes own; no class means all of them. The
// sticky bit belongs to nobody: only naming it changes it.
func whoBits(classes string) uint32 {
	if classes == "" {
		classes = "a"
	}
	var bits uint32
	for _, l := range classes {
		switch l {
		case 'u':
			bits |= setUID | userX
		case 'g':
			bits |= setGID | groupX
		case 'o':
			bits |= otherX
		case 'a':
			bits |= setUID | setGID | userX | groupX | otherX
		}
	}
	return bits
}

// apply returns the mode of a copied file or directory that had old.
func (m mode) apply(old uint32, dir bool) uint32 {
	if m.octal {
		return m.bits
	}
	now := old
	for _, c := range m.clauses {
		now = c.apply(now, dir || old&0o111 != 0)
	}
	return now
}

func (c clause) apply(now uint32, x bool) uint32 {
	set := c.set
	if c.x && x {
		set |= 0o111
	}
	for _, l := range c.copies {
		set |= spread(now, l)
	}
	set &= c.who
	switch c.op {
	case '+':
		return now | set
	case '-':
		return now &^ set
	}
	clear := c.who
	if c.copies != "" && c.set == 0 && !c.x {
		clear &= 0o777 // taking another class's permissions leaves set-id alone
	}
	return now&^clear | set
}

// spread returns one class's permissions, given to all classes.
func spread(m uint32, class rune) uint32 {
	switch class {
	case 'u':
		m >>= 6
	case 'g':
		m >>= 3
	}
	return m & 7 * 0o111
}

// ofMade is the mode of directories made on the way: an octal mode is theirs
// too, but for the bits that mkdir(2) does not take.
func (m mode) ofMade() uint32 {
	if m.octal {
		return m.bits & 0o777
	}
	return 0o755
}
