package generate

import (
	"fmt"
	"strconv"
	"strings"
)

// Seeds reads "FIRST-LAST" or one seed.
func Seeds(text string) (first, last uint64, err error) {
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		to = from
	}
	first, err = strconv.ParseUint(from, 10, 64)
	if err == nil {
		last, err = strconv.ParseUint(to, 10, 64)
	}
	if err != nil || last < first {
		return 0, 0, fmt.Errorf("seeds %q: want FIRST-LAST", text)
	}
	return first, last, nil
}
