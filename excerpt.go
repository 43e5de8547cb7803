package whittle

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/address"
	"github.com/whittle-build/whittle/internal/progress"
)

// Excerpt shows lines first to last of a file, marked, and some around them,
// as docker does; "" when there are no such lines. What a terminal would obey
// is taken out, and so are the credentials of addresses.
func Excerpt(name string, src []byte, first, last int) string {
	lines := bytes.Split(src, []byte("\n"))
	last = min(max(first, last), len(lines))
	if first < 1 || first > len(lines) {
		return ""
	}
	from, to := around(first, last, len(lines))
	var b strings.Builder
	const rule = "--------------------\n"
	fmt.Fprintf(&b, "%s:%d\n%s", progress.Clean(name), first, rule)
	for n := from; n <= to; n++ {
		mark := "   "
		if n >= first && n <= last {
			mark = ">>>"
		}
		parts := strings.Split(string(lines[n-1]), "\t")
		for i, part := range parts {
			parts[i] = address.Redact(progress.Clean(part))
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", n, mark, strings.Join(parts, "\t"))
	}
	b.WriteString(rule)
	return b.String()
}

// around widens lines from to to by what people need to know them again: less
// for several lines than for one, and more on one side where the other ends.
func around(from, to, all int) (int, int) {
	room := 2
	if from == to {
		room = 4
	}
	for used := 0; used < room; used++ {
		if from > 1 {
			from--
			used++
		}
		if to < all {
			to++
			used++
		}
	}
	return from, to
}
