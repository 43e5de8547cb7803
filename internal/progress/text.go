package progress

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// HumanSize writes a number of bytes as Docker does: four significant digits
// and decimal units, as 6.656kB.
func HumanSize(n int64) string {
	units := [...]string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	size, i := float64(n), 0
	for size >= 1000 && i < len(units)-1 {
		size /= 1000
		i++
	}
	return fmt.Sprintf("%.4g%s", size, units[i])
}

// HumanDuration writes a duration as people say it: 0.4s, 12.3s, 2m03s,
// 1h02m.
func HumanDuration(d time.Duration) string {
	d = max(d, 0)
	switch s := int64(d.Round(time.Second) / time.Second); {
	case d.Round(100*time.Millisecond) < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	default:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
}

// Clean takes out of one line what a terminal would obey: escape sequences,
// control characters, and the characters that reorder text. Bytes that are
// not UTF-8 become U+FFFD.
func Clean(s string) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		if n := sequence(s); n > 0 {
			s = s[n:]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		s = s[n:]
		switch {
		case r == '\t' || r == '\n':
			b.WriteByte(' ')
		case !obeyed(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Brief is Clean for a line that may be long: at most 200 characters of it.
func Brief(line string) string {
	const most = 200
	runes := []rune(Clean(line))
	if len(runes) <= most {
		return string(runes)
	}
	return string(runes[:most]) + "…"
}

// CleanLines is Clean for text of several lines.
func CleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = Clean(l)
	}
	return strings.Join(lines, "\n")
}

func isClean(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// obeyed reports characters that a terminal acts on.
func obeyed(r rune) bool {
	return unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 ||
		r == 0x200e || r == 0x200f || r == 0x2028 || r == 0x2029
}

// maxString is how far the end of a string sequence is looked for, so that
// hostile output costs no more than its length.
const maxString = 4 << 10

// sequence returns the length of the escape sequence at the start of s, 0
// when there is none (ECMA-48 5.4 and 5.6). A string sequence that does not
// end in s is only its introducer: what follows may be text.
func sequence(s string) int {
	if s[0] != 0x1b {
		return 0
	}
	if len(s) == 1 {
		return 1
	}
	switch c := s[1]; {
	case c == '[':
		i := 2
		for i < len(s) && s[i] >= 0x20 && s[i] <= 0x3f {
			i++
		}
		if i < len(s) && s[i] >= 0x40 && s[i] <= 0x7e {
			i++
		}
		return i
	case strings.IndexByte("]PX^_", c) >= 0:
		s = s[:min(len(s), maxString)]
		bel, st := strings.IndexByte(s, 7), strings.Index(s, "\x1b\\")
		switch {
		case bel >= 0 && (st < 0 || bel < st):
			return bel + 1
		case st >= 0:
			return st + 2
		}
		return 2
	case c >= 0x20 && c <= 0x2f: // intermediate bytes, then a final one
		i := 2
		for i < len(s) && s[i] >= 0x20 && s[i] <= 0x2f {
			i++
		}
		return min(i+1, len(s))
	case c >= 0x30 && c <= 0x7e:
		return 2
	}
	return 1
}

// lastText returns what of a line would be seen: of text that carriage
// returns overwrite, the last.
func lastText(line []byte) string {
	for len(line) > 0 {
		i := bytes.LastIndexByte(line, '\r')
		if s := strings.TrimSpace(Clean(string(line[i+1:]))); s != "" || i < 0 {
			return s
		}
		line = line[:i]
	}
	return ""
}

// cleaner writes lines on, cleaned; a carriage return ends a line too, so
// that nothing is overwritten.
type cleaner struct {
	w    io.Writer
	part []byte
}

// maxPart is how much of a line is kept together.
const maxPart = 1 << 20

func (c *cleaner) Write(b []byte) (int, error) {
	c.part = append(c.part, b...)
	for {
		i := bytes.IndexByte(c.part, '\n')
		if i < 0 && len(c.part) > maxPart {
			i = len(c.part) - 1
		}
		if i < 0 {
			return len(b), nil
		}
		c.line(c.part[:i+1])
		c.part = c.part[i+1:]
	}
}

func (c *cleaner) line(b []byte) {
	b = bytes.TrimRight(b, "\r\n")
	for part := range bytes.SplitSeq(b, []byte("\r")) {
		if len(part) > 0 || len(b) == 0 {
			fmt.Fprintln(c.w, Clean(string(part)))
		}
	}
}

func (c *cleaner) flush() {
	if len(c.part) > 0 {
		c.line(c.part)
	}
	c.part = nil
}

// width returns how many cells s takes on a terminal.
func width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0x303e, r >= 0x3041 && r <= 0xa4cf,
		r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff, r >= 0xfe30 && r <= 0xfe6f,
		r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f680 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// fit cuts s to at most n cells; what was cut ends in "…".
func fit(s string, n int) string {
	if width(s) <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	used := 0
	for i, r := range s {
		w := runeWidth(r)
		if used+w > n-1 {
			return s[:i] + "…"
		}
		used += w
	}
	return s
}

// pad makes s exactly n cells wide.
func pad(s string, n int) string {
	s = fit(s, n)
	return s + strings.Repeat(" ", max(0, n-width(s)))
}
