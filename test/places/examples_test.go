package places

import (
	"strings"
	"testing"
)

// eachExample builds Dockerfiles of the six examples and says of each whether it
// was built; what fails says the last that it printed.
const eachExample = `
/src/standins/load 2>/dev/null
try() {
	local dir=/src/examples/$1 file=$2 mirror=
	grep -qi '^arg apt_mirror' $dir/$file && mirror='--build-arg APT_MIRROR=file:/usr/share/stand-in/apt'
	if whittle build --progress plain $mirror -f $dir/$file $dir >log 2>&1; then
		echo "built $1 $file"
	else
		echo "failed $1 $file"
		tail -n 8 log
	fi
}
try 1-http-service Dockerfile
try 1-http-service Dockerfile.nginx-conf
try 2-path-and-time-zone Dockerfile.corrected
try 3-lower-case-and-side-by-side Dockerfile.corrected
try 4-folders Dockerfile
try 4-folders Dockerfile.wildcard
try 5-onbuild-and-thin Dockerfile.onbuild
try 5-onbuild-and-thin Dockerfile
try 6-missing-interpreter Dockerfile.corrected
`

// builtIn are the lines of eachExample that say what was built, or failed.
func builtIn(t *testing.T, p place) (built, failed []string, said string) {
	t.Helper()
	said = p.must(t, eachExample)
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if what, ok := strings.CutPrefix(line, "built "); ok {
			built = append(built, what)
		}
		if what, ok := strings.CutPrefix(line, "failed "); ok {
			failed = append(failed, what)
		}
	}
	return built, failed, said
}
