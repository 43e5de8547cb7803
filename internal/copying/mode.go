package copying

import (
	"strconv"
	"strings"
)

// A mode is a parsed --chmod: nothing, an absolute mode, or changes of one.
type mode struct {
	octal   bool
	bits    uint32
	changes []change
}

// A change is one operator of a symbolic mode and what stands after it.
type change struct {
	who     uint32 // the bits of the classes before it; 0 when there are none
	op      byte   // one of +-=
	letters string
}

const (
	setUID   = 0o4000
	setGID   = 0o2000
	sticky   = 0o1000
	userX    = 0o700
	groupX   = 0o070
	otherX   = 0o007
	allModes = setUID | setGID | userX | groupX | otherX // the sticky bit belongs to no class
)

// CheckMode returns nil or a *BadMode for the value of a --chmod.
func CheckMode(s string) error {
	_, err := parseMode(s)
	return err
}

// parseMode reads the octal form, and the symbolic form of chmod(1) without a
// umask: [ugoa]*([-+=][rwxXstugo]*)+ with commas between.
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
		cs, ok := parseChanges(part)
		if !ok {
			return mode{}, &BadMode{Mode: s}
		}
		m.changes = append(m.changes, cs...)
	}
	return m, nil
}

// parseChanges reads what stands between two commas: classes, then one or
// more operators with their letters.
func parseChanges(s string) ([]change, bool) {
	rest := strings.TrimLeft(s, "ugoa")
	who := classBits(s[:len(s)-len(rest)])
	if rest == "" {
		return nil, false
	}
	var out []change
	for rest != "" {
		if !strings.ContainsRune("+-=", rune(rest[0])) {
			return nil, false
		}
		after := strings.TrimLeft(rest[1:], "rwxXstugo")
		out = append(out, change{who, rest[0], rest[1 : len(rest)-len(after)]})
		rest = after
	}
	return out, true
}

// classBits returns the bits that classes own.
func classBits(classes string) uint32 {
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
			bits |= allModes
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
	for _, c := range m.changes {
		now = c.apply(now, dir || old&0o111 != 0)
	}
	return now
}

// apply is what the reference does, which is BSD's setmode(3): letters gather
// until the end or one of ugo, which copies another class's permissions at
// once. It is in its hands that t without a class speaks of the sticky bit
// alone, whatever stands beside it, and that the first copy spares "=" from
// clearing anything but what it copies to.
func (c change) apply(now uint32, x bool) uint32 {
	set, ifX, cleared := uint32(0), uint32(0), c.op != '='
	who, notOnlyOther := c.who, c.who == 0 || c.who&^otherX != 0
	put := func(last bool) {
		if set != 0 || last && !cleared {
			now = c.put(now, who, set)
		}
		if x {
			now |= among(who, ifX)
		}
		set, ifX = 0, 0
	}
	for _, l := range c.letters {
		switch l {
		case 'r':
			set |= 0o444
		case 'w':
			set |= 0o222
		case 'x':
			set |= 0o111
		case 'X':
			if c.op == '-' {
				set |= 0o111
			} else {
				ifX = 0o111
			}
		case 's':
			if notOnlyOther {
				set |= setUID | setGID
			}
		case 't':
			if notOnlyOther {
				who |= sticky
				set |= sticky
			}
		default:
			put(false)
			cleared = true
			now = c.copied(now, who, spread(now, l))
		}
	}
	put(true)
	return now
}

// put adds, removes or sets permissions of who.
func (c change) put(now, who, set uint32) uint32 {
	switch c.op {
	case '+':
		return now | among(who, set)
	case '-':
		return now &^ among(who, set)
	}
	clear := who
	if who == 0 {
		clear = allModes
	}
	return now&^clear | among(who, set)
}

// copied is put for the permissions of another class, which leave the set-id
// and sticky bits alone.
func (c change) copied(now, who, from uint32) uint32 {
	classes := uint32(0o777)
	if who != 0 {
		classes = who & 0o777
	}
	switch c.op {
	case '+':
		return now | from&classes
	case '-':
		return now &^ (from & classes)
	}
	return now&^classes | from&classes
}

// among returns those of bits that belong to who; no class means all.
func among(who, bits uint32) uint32 {
	if who == 0 {
		return bits
	}
	return bits & who
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
