package dockerfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/whittle-build/whittle/internal/lazyre"
)

// The grammar of image names, after the distribution project's reference.
var (
	reDomain    = lazyre.New(`^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$`)
	reComponent = lazyre.New(`^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$`)
	reTag       = lazyre.New(`^[\w][\w.-]{0,127}$`)
	reDigest    = lazyre.New(`^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}$`)
)

// CheckImageName says what is wrong with an image name; nil if nothing is.
func CheckImageName(name string) error {
	rest, digest, hasDigest := strings.Cut(name, "@")
	if hasDigest && !reDigest.MatchString(digest) {
		return fmt.Errorf("%q is not a digest such as sha256: and 64 hex digits", digest)
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		if !reTag.MatchString(rest[i+1:]) {
			return fmt.Errorf("%q is not a tag: letters, digits, _ . and -, at most 128", rest[i+1:])
		}
		rest = rest[:i]
	}
	first, path, ok := strings.Cut(rest, "/")
	if ok && (strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first) {
		if !reDomain.MatchString(first) {
			return fmt.Errorf("%q is not the name of a registry", first)
		}
		rest = path
	}
	if len(rest) > 255 {
		return errors.New("longer than 255 bytes")
	}
	for part := range strings.SplitSeq(rest, "/") {
		if reComponent.MatchString(part) {
			continue
		}
		if reComponent.MatchString(strings.ToLower(part)) {
			return errors.New("repository name must be lowercase")
		}
		return fmt.Errorf("%q: repository names have lower-case letters and digits, with single . _ - between them", part)
	}
	return nil
}
