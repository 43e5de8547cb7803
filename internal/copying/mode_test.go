package copying

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestModesAreReadAsTheReferenceReadsThem(t *testing.T) {
	text, err := os.ReadFile("testdata/modes.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var s, kind string
		var old, want uint32
		if n, _ := fmt.Sscanf(line, "%q of %s %o is %o", &s, &kind, &old, &want); n == 4 {
			m, err := parseMode(s)
			if got := m.apply(old, kind == "dir"); err != nil || got != want {
				t.Errorf("%q of a %s with %04o: %04o, want %04o (%v)", s, kind, old, got, want, err)
			}
		} else if n == 1 && strings.HasSuffix(line, " refused\n") {
			if err := CheckMode(s); err == nil {
				t.Errorf("%q is not refused", s)
			}
		} else if !strings.HasPrefix(line, "#") {
			t.Errorf("cannot read %q", line)
		}
	}
}

func TestModesChangeAsChmodSays(t *testing.T) {
	const dir = 1 << 16 // marks a directory in these tables
	tests := []struct {
		mode     string
		old, new uint32
	}{
		{"644", 0o777, 0o644},
		{"0", 0o7777, 0},
		{"07421", 0, 0o7421},
		{"7777", dir, 0o7777},

		{"+x", 0o644, 0o755},
		{"a+x", 0o644, 0o755},
		{"u+x", 0o644, 0o744},
		{"go-w", 0o777, 0o755},
		{"o-rwx,g+x", 0o644, 0o650},
		{"u=rwx,g=,o=", 0o644, 0o700},
		{"u+rw,g+r,o-x,o+w", 0o421, 0o662},
		{"go=", 0o777, 0o700},
		{"=", 0o777, 0},
		{"+", 0o421, 0o421},
		{"u+r-w", 0o300, 0o500},
		{"u=rw+x", 0o070, 0o770},

		{"u=rwX,go=rX", 0o600, 0o644},
		{"u=rwX,go=rX", 0o611, 0o755},
		{"u=rwX,go=rX", 0o666, 0o644},
		{"u=rwX,go=rX", dir | 0o700, 0o755},
		{"u=rwX,go=rX", dir | 0o600, 0o755},
		{"+X", 0o644, 0o644},
		{"+X", 0o744, 0o755},
		{"a+X", dir | 0o500, 0o511},
		{"u-x,+X", 0o100, 0o111}, // the bits before any change count
		{"-X", 0o755, 0o644},
		{"-X", dir | 0o777, 0o666},

		{"g=u", 0o640, 0o660},
		{"g=u", 0o2740, 0o2770},
		{"go=u-w", 0o370, 0o311},
		{"u=g-w", 0o762, 0o462},
		{"u+go", 0o021, 0o321},
		{"-u", 0o111, 0o000},
		{"o=g,g=o", 0o640, 0o644}, // one after the other

		{"u+s", 0o755, 0o4755},
		{"g+s", 0o755, 0o2755},
		{"+s", 0o755, 0o6755},
		{"o+s", 0o755, 0o755},
		{"u=rwx", 0o6755, 0o2755},
		{"u-s", 0o6755, 0o2755},
		{"a+t", 0o755, 0o1755},
		{"+t", 0o755, 0o1755},
		{"o+t", 0o755, 0o755},
		{"-t", 0o1755, 0o755},
		{"a=rx", 0o1777, 0o1555},
		{"o+r,g+w,a+t,g-s,u+og", 0o2100, 0o1724},
	}
	for _, tt := range tests {
		m, err := parseMode(tt.mode)
		if err != nil {
			t.Errorf("%q: %v", tt.mode, err)
			continue
		}
		if got := m.apply(tt.old&0o7777, tt.old&dir != 0); got != tt.new {
			t.Errorf("%q of %05o: %05o, want %05o", tt.mode, tt.old, got, tt.new)
		}
	}
}

func TestModesThatAreNoneAreRefused(t *testing.T) {
	const octal = "it should be octal string and between 0 and 07777"
	for _, s := range []string{
		"9", "0888", "10000", "017777", "-1", "0x1ff", "755u", "7_55", "99999999999999999999",
		",", "u", "go", "z", "u+rq", "u+r,", ",u+r", "rwx", "u +r", "+755", "u=rw,go", "ü+r", "u+é",
	} {
		_, err := parseMode(s)
		var bad *BadMode
		if !errors.As(err, &bad) || bad.Mode != s {
			t.Errorf("%q: error %v, want *BadMode", s, err)
		}
	}
	_, err := parseMode("0888")
	if want := "invalid chmod parameter: '0888'. " + octal; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func FuzzModesStayModes(f *testing.F) {
	for _, s := range []string{"644", "u=rwX,go=rX", "g=u-w,o+t", "+s", "=", "a=,u+gox"} {
		f.Add(s, uint32(0o4751), true)
	}
	f.Fuzz(func(t *testing.T, s string, old uint32, dir bool) {
		m, err := parseMode(s)
		if err != nil {
			return
		}
		if got := m.apply(old&0o7777, dir); got&^0o7777 != 0 {
			t.Errorf("%q of %o: %o", s, old, got)
		}
		if made := m.ofMade(); made&^0o777 != 0 {
			t.Errorf("%q: directories made with %o", s, made)
		}
	})
}
