package supervisor

import (
	"strings"
	"testing"
)

func TestTheControllingTerminalIsReadFromStat(t *testing.T) {
	for stat, want := range map[string]int{
		"S 1 2 3 34816 7":   0, // 136:0
		"S 1 2 3 34821 7":   5,
		"S 1 2 3 1083392 7": 256, // minors from 256 on have their upper bits elsewhere
		"S 1 2 3 0 7":       -1,
		"S 1 2 3 1025 7":    -1, // tty1
		"S 1 2 3":           -1,
		"S 1 2 3 much":      -1,
	} {
		n, ok := controlling(strings.Fields(stat))
		if ok != (want >= 0) || ok && n != want {
			t.Errorf("%s: %d, %t; want %d", stat, n, ok, want)
		}
	}
}
