package container

import (
	"errors"
	"strconv"
	"strings"
)

// What a k is: docker counts memory in powers of 1024, and disks in powers of
// 1000.
const (
	KiloMemory = 1024
	KiloDisk   = 1000
)

// maxSize is a petabyte: more is a mistake, and far from what an int64 holds.
const maxSize = 1 << 50

var errSize = errors.New("want a number with a unit")

// ParseSize reads docker's sizes: 64m, 1g, 1.5gb or plain bytes, where a k is
// kilo; 2KiB is 2048 always.
func ParseSize(s string, kilo int64) (int64, error) {
	num := strings.ToLower(strings.TrimSpace(s))
	num, bytes := strings.CutSuffix(num, "b")
	if binary, ok := strings.CutSuffix(num, "i"); ok && bytes {
		num, kilo = binary, 1024
		if !strings.ContainsAny(num, "kmgt") {
			return 0, errSize
		}
	}
	unit := int64(1)
	for i, u := 0, kilo; i < len("kmgt"); i, u = i+1, u*kilo {
		if digits, ok := strings.CutSuffix(num, "kmgt"[i:i+1]); ok {
			unit, num = u, digits
			break
		}
	}
	num = strings.TrimSpace(num)
	if strings.Trim(num, "0123456789.") != "" { // ParseFloat reads inf, 0x1p4 and 1e30 too
		return 0, errSize
	}
	n, err := strconv.ParseFloat(num, 64)
	if err != nil || n*float64(unit) > maxSize {
		return 0, errSize
	}
	return int64(n * float64(unit)), nil
}
