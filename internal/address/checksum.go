package address

import (
	"errors"
	"strings"

	"github.com/whittle-build/whittle/internal/lazyre"
)

var (
	reChecksum = lazyre.New(`^[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$`)
	reLowerHex = lazyre.New(`^[a-f0-9]*$`)
)

// CheckChecksum says what is wrong with the checksum of a file: it is the name
// of an algorithm, a colon and lower-case hex digits.
func CheckChecksum(checksum string) error {
	if !reChecksum.MatchString(checksum) {
		return errors.New("invalid checksum digest format")
	}
	name, digits, _ := strings.Cut(checksum, ":")
	length := map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}[name]
	switch {
	case length == 0:
		return errors.New("unsupported digest algorithm")
	case len(digits) != length:
		return errors.New("invalid checksum digest length")
	case !reLowerHex.MatchString(digits):
		return errors.New("invalid checksum digest format")
	}
	return nil
}
