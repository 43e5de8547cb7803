package places

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root in a container that docker run makes by default: its seccomp profile, its
// capabilities, and nothing else.
func ordinary() place { return place{disk: true} }

// examples builds all six, as an image each, and saves those images to /out.
const examples = `
cd /src/examples
apt=--build-arg=APT_MIRROR=file:/usr/share/stand-in/apt
build() { whittle build --progress plain -t "$@" 2>>/out/log || { cat /out/log; exit 1; }; }
build one:1 1-http-service
build two:1 -f 2-path-and-time-zone/Dockerfile.corrected 2-path-and-time-zone
build three:1 $apt -f 3-lower-case-and-side-by-side/Dockerfile.corrected 3-lower-case-and-side-by-side
build four:1 4-folders
build five:1 5-onbuild-and-thin
build onbuild:1 -f 5-onbuild-and-thin/Dockerfile.onbuild 5-onbuild-and-thin
build six:1 $apt -f 6-missing-interpreter/Dockerfile.corrected 6-missing-interpreter
for i in one two three four five onbuild six; do whittle save -o /out/$i.tar $i:1; done
`

func TestRootInAContainerBuildsTheExamples(t *testing.T) {
	out := t.TempDir()
	p := ordinary()
	p.options = append(p.options, "-v", out+":/out")
	said := p.must(t, "bash /src/standins/load\nwhittle info\n"+examples+`
		whittle fsck
		ls $WHITTLE_ROOT/tmp | sed 's/^/left in tmp: /'`)
	log, err := os.ReadFile(filepath.Join(out, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(said, "left in tmp") || !strings.Contains(said, "root file systems  chroot") {
		t.Errorf("said %s", said)
	}
	if n := strings.Count(string(log), "isolation chroot:"); n == 0 {
		t.Errorf("nobody said what is not protected:\n%s", log)
	}
}

var _ = exec.Command
